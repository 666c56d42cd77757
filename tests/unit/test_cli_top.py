"""`pointsman top`: what two answers of an agent mean, how that is laid out, and what is said when there is none."""

from __future__ import annotations

import io
import json
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING

import msgspec
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from pointsman.agent.connections import Backend, Connections, CountedFrontend
from pointsman.cli import top
from pointsman.cli.top_rows import Wanted, compare
from pointsman.cli.top_text import amount, fit, lay_out, speed
from support.command_line import said

if TYPE_CHECKING:
    from collections.abc import Iterator

    from click.testing import Result

    from pointsman.cli.top_rows import Frame

WEB = "shop/web:http"


def answer(second: float, *frontends: CountedFrontend, mode: str = "nftables") -> Connections:
    return Connections("node-1", mode, f"2026-01-02T03:04:{second:09.6f}Z", frontends)


def frontend(
    connections: int,
    *backends: Backend,
    name: str = WEB,
    address: str = "10.96.0.1",
    port: int = 80,
    protocol: str = "tcp",
) -> CountedFrontend:
    family = 6 if ":" in address else 4
    return CountedFrontend(name, family, address, port, protocol, "rr", connections, backends)  # type: ignore[arg-type]


def backend(number: int, connections: int, weight: int = 1, active: int | None = None) -> Backend:
    return Backend(f"10.0.0.{number}", 8080, weight, connections, active, None if active is None else 2 * active)


def titles(frame: Frame) -> list[str]:
    return [service.title for service in frame.services]


def shown(frame: Frame, *, width: int = 80, height: int = 24, terminal: bool = False, note: str = "") -> list[str]:
    screen = io.StringIO()
    console = Console(
        file=screen, width=width, height=height, force_terminal=terminal, color_system=None, legacy_windows=False
    )
    console.print(lay_out(frame, console, note=note))
    return [line.rstrip() for line in screen.getvalue().splitlines()]


def test_one_answer_alone_has_no_rates() -> None:
    frame = compare(answer(0, frontend(9, backend(1, 6), backend(2, 3))), None, Wanted())
    service = frame.services[0]
    assert (frame.seconds, service.rate, service.connections, service.active) == (None, None, 9, None)
    assert [(each.rate, round(each.share, 2)) for each in service.backends] == [(None, 0.67), (None, 0.33)]


def test_rates_and_shares_are_of_the_time_between_two_answers() -> None:
    before = answer(0, frontend(100, backend(1, 100), backend(2, 0)))
    frame = compare(answer(4, frontend(108, backend(1, 102), backend(2, 6))), before, Wanted())
    service = frame.services[0]
    assert (frame.seconds, service.rate, frame.rate) == (4.0, 2.0, 2.0)
    assert [(each.rate, each.share) for each in service.backends] == [(0.5, 0.25), (1.5, 0.75)]


def test_shares_are_of_everything_while_nothing_comes() -> None:
    quiet = answer(0, frontend(4, backend(1, 1), backend(2, 3))), answer(2, frontend(4, backend(1, 1), backend(2, 3)))
    assert [each.share for each in compare(quiet[1], quiet[0], Wanted()).services[0].backends] == [0.25, 0.75]
    nothing = compare(answer(0, frontend(0, backend(1, 0))), None, Wanted())
    assert nothing.services[0].backends[0].share == 0


def test_what_is_new_or_was_begun_anew_has_got_all_of_it_since() -> None:
    before = answer(0, frontend(50, backend(1, 50)))
    now = answer(2, frontend(4, backend(1, 2), backend(2, 2)), frontend(6, name="shop/new", address="10.96.0.2"))
    rates = {service.title: service.rate for service in compare(now, before, Wanted()).services}
    assert rates == {WEB: 2.0, "shop/new": 3.0}
    assert [each.rate for each in compare(now, before, Wanted()).services[1].backends] == [1.0, 1.0]


def test_a_clock_that_was_set_back_gives_no_rates() -> None:
    assert compare(answer(1, frontend(2)), answer(5, frontend(1)), Wanted()).seconds is None


def test_a_port_is_one_row_whatever_its_addresses() -> None:
    before = answer(0)
    now = answer(
        1,
        frontend(1, backend(1, 1), address="*", port=30080),
        frontend(2, backend(1, 2, active=3)),
        frontend(4, address="fd00::1"),
        frontend(8, name="shop/web:dns", protocol="udp"),
        frontend(9, name="shop/web:dns"),
    )
    frame = compare(now, before, Wanted("name"))
    assert [(service.title, service.protocol, service.connections) for service in frame.services] == [
        ("shop/web:dns", "tcp", 9), ("shop/web:dns", "udp", 8), (WEB, "tcp", 7),
    ]  # fmt: skip
    web = frame.services[2]
    assert [(each.family, each.address) for each in web.frontends] == [(4, "10.96.0.1"), (6, "fd00::1"), (4, "*")]
    assert [(each.connections, each.rate, each.active, each.inactive) for each in web.backends] == [(3, 3.0, 3, 6)]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Wanted(), ["b/busy", "a/open", "a/old", "b/idle"]),
        (Wanted("connections"), ["a/old", "b/busy", "a/open", "b/idle"]),
        (Wanted("active"), ["a/open", "a/old", "b/busy", "b/idle"]),
        (Wanted("name"), ["a/old", "a/open", "b/busy", "b/idle"]),
        (Wanted("name", "a"), ["a/old", "a/open"]),
        (Wanted("name", service="open"), ["a/open"]),
        (Wanted("name", service="b/idle"), ["b/idle"]),
        (Wanted("name", "a", "b/idle"), []),
    ],
)
def test_services_are_chosen_and_sorted(wanted: Wanted, expected: list[str]) -> None:
    def at(second: float, *numbers: int) -> Connections:
        names = ("a/old", "a/open", "b/busy", "b/idle")
        return answer(
            second,
            *(
                frontend(
                    number, backend(1, number, active=5 * (name == "a/open")), name=name, address=f"10.96.0.{place}"
                )
                for place, (name, number) in enumerate(zip(names, numbers, strict=True), 1)
            ),
        )

    assert titles(compare(at(2, 900, 21, 40, 0), at(0, 900, 20, 0, 0), wanted)) == expected


def test_before_any_rate_is_known_the_most_connections_come_first() -> None:
    now = answer(0, frontend(1, name="a/a"), frontend(2, name="b/b", address="10.96.0.2"))
    assert titles(compare(now, None, Wanted())) == ["b/b", "a/a"]


def many(services: int, backends: int, *, active: int | None = None) -> Frame:
    def at(second: float, times: int) -> Connections:
        return answer(
            second,
            *(
                frontend(
                    times * backends,
                    *(backend(number, times * number, active=active) for number in range(1, backends + 1)),
                    name=f"namespace/service-{place:02}:http",
                    address=f"10.96.0.{place}",
                )
                for place in range(1, services + 1)
            ),
        )

    return compare(at(2, 30), at(0, 10), Wanted())


def test_the_table_in_a_pipe_is_whole_plain_and_fits_80_columns() -> None:
    lines = shown(many(20, 3, active=7), height=10)
    assert len(lines) == 2 + 20 * 4
    assert max(map(len, lines)) <= 80
    assert lines[:4] == [
        "node-1  nftables  03:04:02 UTC  20 Service ports  600.0 connections/s",
        "SERVICE, BACKENDS            CONNS   RATE/S  ACTIVE   INACT  SHARE",
        "namespace/service-01:http       90     30.0      21      42  rr",
        "  10.0.0.1:8080                 30     10.0       7      14  #       17%",
    ]


def test_open_connections_have_columns_where_the_kernel_counts_them() -> None:
    without = shown(many(1, 1))
    assert "ACTIVE" not in without[1]
    assert "10.96.0.1:80/tcp" in without[2]
    assert "ACTIVE" in shown(many(1, 1, active=0))[1]


@pytest.mark.parametrize("height", [5, 6, 10, 24, 100])
@pytest.mark.parametrize(("services", "backends"), [(1, 1), (1, 50), (3, 40), (30, 2), (50, 0)])
def test_a_terminal_is_never_too_low(height: int, services: int, backends: int) -> None:
    frame = many(services, backends)
    lines = shown(frame, height=height, terminal=True)
    assert len(lines) <= height
    cut = fit(frame.services, height - 3)
    assert len(cut.services) + cut.left == services
    if cut.left or any(each.left for each in cut.services):
        assert lines[-1].endswith("more (--service, --namespace, --sort)")
    for each in cut.services:
        assert len(each.backends) + each.left == backends


def test_the_busiest_backends_of_a_large_service_are_shown() -> None:
    lines = shown(many(1, 50), height=10, terminal=True)
    assert [line.split()[0] for line in lines[3:7]] == [f"10.0.0.{number}:8080" for number in (50, 49, 48, 47)]
    assert lines[7] == "  46 more"
    assert lines[8] == "46 backends more (--service, --namespace, --sort)"


@pytest.mark.parametrize("width", [60, 80, 81, 132, 200])
def test_a_terminal_is_never_too_narrow(width: int) -> None:
    for active in (None, 7):
        lines = shown(many(3, 3, active=active), width=width, terminal=True)
        assert max(map(len, lines)) <= width
        assert lines[4].rstrip().endswith("33%")


def test_what_drains_and_who_is_missing_is_said() -> None:
    now = answer(0, frontend(3, backend(1, 3, weight=0), Backend("fd00::1", 80, 1, 0)))
    lines = shown(compare(now, None, Wanted()))
    assert lines[3].split() == ["10.0.0.1:8080", "3", "-", "drains"]
    assert lines[4].split() == ["[fd00::1]:80", "0", "-", "0%"]
    assert shown(compare(now, None, Wanted(service="x")))[1] == "no Service of that name is served on this node"
    assert shown(compare(now, None, Wanted()), note="the agent is away")[0].endswith(
        "1 Service port  the agent is away"
    )


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (None, "-"), (0, "0"), (999_999, "999,999"), (1_234_567, "1.235M"), (123_456_789, "123.5M"),
        (1_000_000_000, "1G"), (5 * 10**12, "5T"),
    ],
)  # fmt: skip
def test_numbers_are_short(number: int | None, text: str) -> None:
    assert amount(number) == text
    assert len(text) <= 7


@pytest.mark.parametrize(
    ("rate", "text"), [(None, "-"), (0.0, "0.0"), (9_999.94, "9,999.9"), (9_999.96, "10,000"), (2e6, "2M")]
)
def test_rates_are_short(rate: float | None, text: str) -> None:
    assert speed(rate) == text


@contextmanager
def agent(*replies: tuple[int, bytes]) -> Iterator[str]:
    """Run a server that gives these replies in turn, and the last one again and again."""
    left = list(replies)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path == "/connections"
            status, body = left.pop(0) if len(left) > 1 else left[0]
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def run(*arguments: str) -> Result:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(top.command)
    return CliRunner().invoke(app, arguments)


def reply(answered: Connections) -> tuple[int, bytes]:
    return 200, msgspec.json.encode(answered)


def test_one_look_as_json() -> None:
    with agent(reply(answer(0, frontend(3, backend(1, 3))))) as address:
        result = run("--agent", address, "--once", "-o", "json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert (found["node"], found["mode"], found["seconds"]) == ("node-1", "nftables", None)
    assert found["services"][0]["namespace"] == "shop"
    assert found["services"][0]["backends"] == [
        {
            "address": "10.0.0.1", "port": 8080, "weight": 1, "connections": 3, "rate": None, "active": None,
            "inactive": None, "share": 1.0,
        }
    ]  # fmt: skip


def test_one_look_as_text() -> None:
    with agent(reply(answer(0, frontend(3, backend(1, 3))))) as address:
        result = run("--agent", address, "--once")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == "node-1  nftables  03:04:00 UTC  1 Service port"
    assert "\x1b" not in result.stdout


def test_each_new_answer_is_a_line_of_json_until_the_agent_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pointsman.cli.top.time.sleep", lambda _: None)
    first, same, second = answer(0, frontend(3)), answer(0, frontend(3)), answer(2, frontend(7))
    with agent(reply(first), reply(same), reply(second), (503, b"no counters\n")) as address:
        result = run("--agent", address, "-o", "json")
    assert [json.loads(line)["services"][0]["rate"] for line in result.stdout.splitlines()] == [None, 2.0]
    assert result.exit_code == 1
    assert result.stderr == f"pointsman top: http://{address}/connections says 503: no counters\n"


def test_tables_follow_each_other_in_a_pipe_until_somebody_stops_it(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("pointsman.cli.top.time.sleep", sleep)
    with agent(reply(answer(0, frontend(3))), reply(answer(2, frontend(7)))) as address:
        result = run("--agent", address, "--interval", "5")
    assert result.exit_code == 0
    assert result.stdout.count("SERVICE, BACKENDS") == 2
    assert waits == [5.0, 5.0]


def test_a_terminal_waits_for_an_agent_that_went(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, waits = io.StringIO(), list[float]()

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr("pointsman.cli.top.time.sleep", sleep)
    monkeypatch.setattr("pointsman.cli.top._on_terminal", lambda: True)
    monkeypatch.setattr("rich.console.Console", lambda: Console(file=screen, width=100, height=20, force_terminal=True))
    replies = [reply(answer(0, frontend(3))), (404, b""), reply(answer(4, frontend(9)))]
    with agent(*replies) as address:
        result = run("--agent", address)
    assert result.exit_code == 0
    text = screen.getvalue()
    assert text.index("03:04:00 UTC") < text.index("does not answer any more") < text.index("03:04:04 UTC")
    assert not text.rpartition("03:04:04 UTC")[2].count("does not answer")
    assert text.endswith("\x1b[?25h\x1b[?1049l"), "the cursor and the screen are given back"


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (404, b"", "what answers there is no agent of this release (kube-proxy has the same port)"),
        (200, b"ok", "answers, but not as an agent of this release does"),
        (200, b"{}", "missing required field `node`"),
    ],
)
def test_what_is_no_agent_is_said(status: int, body: bytes, message: str) -> None:
    with agent((status, body)) as address:
        result = run("--agent", address, "--once")
    assert result.exit_code == 1
    assert message in result.stderr


def test_where_nobody_listens_the_remedy_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    result = run("--agent", f"127.0.0.1:{port}", "--once")
    assert result.exit_code == 1
    assert f"no agent answers at http://127.0.0.1:{port}/connections (Connection refused)" in result.stderr
    assert "--agent" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--agent", "nonsense"), "'nonsense': write IP:PORT or [IPv6]:PORT"),
        (("--agent", ""), "write IP:PORT"),
        (("--agent", "127.0.0.1:0"), "write IP:PORT"),
        (("--interval", "0.5"), "greater than or equal to 1"),
        (("--sort", "size"), "'size' is not one of"),
    ],
)
def test_wrong_options_are_refused(arguments: tuple[str, ...], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in said(result.stderr)
