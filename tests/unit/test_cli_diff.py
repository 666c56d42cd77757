"""What each mode should tell that it holds, how that is compared, and how `pointsman diff` says it."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, get_args

import msgspec
import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from pointsman.agent.outcome import Kernel
from pointsman.api.nodeproxy import NodeProxy
from pointsman.cli import live
from pointsman.cli.app import app
from pointsman.cli.diff_text import Comparison, Elsewhere, as_document, lines
from pointsman.cli.loading import LoadError
from pointsman.dataplane.leftovers import Leftover
from pointsman.dataplane.nftables.readback import backends_held
from pointsman.dataplane.nftables.table import Table
from pointsman.dataplane.protocol import DataplaneError, Support
from pointsman.dataplane.tracing.wanted import wanted
from pointsman.model.comparison import Difference, Wanted, compare
from pointsman.model.plan import NODE_PORT, Answer, Backend, Family, Frontend, IpvsSettings, NodeSettings, Plan, Pool
from pointsman.policy.planner import Planner
from support.kubeconfigs import kubeconfig
from support.nftables_memory import Memory, MemoryDraft

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from click.testing import Result

WEB, NODE = Frontend(4, "10.96.0.1", "tcp", 80), Frontend(4, NODE_PORT, "tcp", 30080)
A, B, C = (Backend(f"10.1.0.{host}", 8080) for host in (1, 2, 3))
EVERYWHERE = NodeSettings(node_port_cidrs=("0.0.0.0/0", "::/0"))
ADDRESSES = [ipaddress.ip_address(text) for text in ("172.16.0.1", "127.0.0.1", "fd00::1")]


def weigh(backend: Backend, weight: int) -> Backend:
    return msgspec.structs.replace(backend, weight=weight)


def answer(*backends: Backend, outside: tuple[Backend, ...] | None = None, scheduler: str = "random") -> Answer:
    return Answer("default/web", scheduler, Pool(backends), None if outside is None else Pool(outside))


def backends_of(mode: str, answers: Mapping[Frontend, Answer], **more: Any) -> Mapping[Frontend, tuple[Backend, ...]]:  # noqa: ANN401
    return wanted(mode, Plan(answers, NodeSettings(**more) if more else EVERYWHERE), ADDRESSES).backends


class TestWanted:
    def test_nftables_tells_slots_of_both_pools(self) -> None:
        found = backends_of("nftables", {WEB: answer(A, weigh(B, 2), outside=(A,)), NODE: answer(weigh(A, 0))})
        assert found == {WEB: (weigh(A, 2), weigh(B, 2)), NODE: ()}

    def test_nftables_reduces_weights(self) -> None:
        found = backends_of("nftables", {WEB: answer(weigh(A, 6), weigh(B, 4), C.__class__("10.1.0.3", 1, 0))})
        assert found == {WEB: (weigh(A, 3), weigh(B, 2))}

    def test_nftables_hashes_by_a_table(self) -> None:
        found = backends_of("nftables", {WEB: answer(A, B, C, scheduler="mh")})[WEB]
        assert [each.address for each in found] == [A.address, B.address, C.address]
        assert min(each.weight for each in found) > 1

    def test_ipvs_has_a_node_port_at_each_address_of_the_node(self) -> None:
        own = Frontend(4, "172.16.0.1", "tcp", 30080)
        six = Frontend(6, NODE_PORT, "tcp", 30080)
        found = backends_of("ipvs", {WEB: answer(weigh(A, 3), weigh(B, 0)), NODE: answer(A), six: answer()})
        assert found == {
            WEB: (weigh(A, 3),),
            own: (A,),
            Frontend(6, "fd00::1", "tcp", 30080): (),
        }

    def test_ipvs_serves_an_address_before_the_node_port_there(self) -> None:
        own = Frontend(4, "172.16.0.1", "tcp", 30080)
        for answers in ({own: answer(B), NODE: answer(A)}, {NODE: answer(A), own: answer(B)}):
            assert backends_of("ipvs", answers) == {own: (B,)}

    def test_ipvs_leaves_excluded_networks_to_others(self) -> None:
        plan = Plan({WEB: answer(A)}, NodeSettings(ipvs=IpvsSettings(exclude_cidrs=("10.96.0.0/16",))))
        found = wanted("ipvs", plan, ADDRESSES)
        assert compare(found, {}) == ()
        assert compare(found, {WEB: (B,)}) != ()

    def test_iptables_tells_weights_as_its_rules_have_them(self) -> None:
        found = backends_of("iptables", {WEB: answer(weigh(A, 2), weigh(B, 6), weigh(C, 0)), NODE: answer(A)})
        assert found == {WEB: (A, weigh(B, 3)), NODE: (A,)}

    def test_userspace_tells_no_backends(self) -> None:
        found = wanted("userspace", Plan({WEB: answer(A)}), ADDRESSES)
        assert not found.whole
        assert compare(found, {WEB: ()}) == ()
        assert [each.state for each in compare(found, {})] == ["missing"]

    def test_a_mode_of_somebodys_own_tells_the_plan(self) -> None:
        assert backends_of("example.com/toy", {WEB: answer(weigh(A, 3), outside=(B,))}) == {WEB: (weigh(A, 3), B)}


_BACKENDS = st.builds(
    Backend,
    st.sampled_from(["10.1.0.1", "10.1.0.2", "10.1.0.3"]),
    st.sampled_from([80, 8080]),
    st.sampled_from([0, 1, 1, 2, 6]),
)
_POOLS = st.lists(_BACKENDS, max_size=5, unique_by=lambda each: (each.address, each.port)).map(
    lambda found: Pool(tuple(sorted(found)))
)
_ANSWERS = st.builds(
    Answer, st.just("default/web"), st.sampled_from(["random", "rr", "sh", "mh"]), _POOLS, st.none() | _POOLS
)
_FRONTENDS = st.builds(
    Frontend,
    st.just(4),
    st.sampled_from(["10.96.0.1", "10.96.0.2", NODE_PORT]),
    st.sampled_from(["tcp", "udp"]),
    st.sampled_from([80, 443]),
)


@given(st.lists(st.dictionaries(_FRONTENDS, _ANSWERS, max_size=4).map(Plan), min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_whatever_came_before_nftables_holds_what_is_wanted(plans: list[Plan]) -> None:
    memory, family = Memory(4), get_args(Family)[0]
    for plan in plans:
        table, draft = Table(family), MemoryDraft()
        table.accept(table.adoption(plan.answers, plan.settings, memory.copy_of_sets(), draft, memory.chains))
        memory.take(draft)
        assert compare(wanted("nftables", plan, ()), backends_held(family, memory.sets)) == ()


class TestCompare:
    def of(self, want: Mapping[Frontend, tuple[Backend, ...]], held: Mapping[Frontend, tuple[Backend, ...]]) -> Any:  # noqa: ANN401
        return compare(Wanted(want, dict.fromkeys(want, "default/web")), held)

    def test_what_is_equal_is_no_difference(self) -> None:
        local = Backend(A.address, A.port, 1, local=True)
        assert self.of({WEB: (local, B)}, {WEB: (B, A)}) == ()

    def test_backends_are_compared_with_their_weights(self) -> None:
        found = self.of({WEB: (A, weigh(B, 2))}, {WEB: (B, C)})
        assert found == (Difference(WEB, "default/web", "changed", (A, weigh(B, 2)), (B, C)),)

    def test_frontends_are_missing_or_extra(self) -> None:
        assert self.of({WEB: (A,)}, {NODE: (B,)}) == (
            Difference(WEB, "default/web", "missing", (A,)),
            Difference(NODE, "", "extra", extra=(B,)),
        )

    def test_those_of_one_service_stand_together_and_those_of_nobody_last(self) -> None:
        frontends = [Frontend(4, f"10.96.0.{number}", "tcp", 80) for number in range(4)]
        services = {frontends[0]: "b", frontends[1]: "a", frontends[2]: "b"}
        found = compare(Wanted(dict.fromkeys(services, ()), services), {frontends[3]: ()})
        assert [each.service for each in found] == ["a", "b", "b", ""]


FOUND = Comparison(
    "node-1",
    "ipvs",
    7,
    (
        Difference(WEB, "default/web:http", "changed", (A, weigh(B, 2)), (B,)),
        Difference(Frontend(6, "fd00::1", "udp", 53), "kube-system/dns", "missing"),
        Difference(NODE, "", "extra", extra=(C,)),
    ),
    (Elsewhere("nftables", 3, ("table ip pointsman",)),),
    ("mode x drains",),
)


def test_differences_are_laid_out_by_service() -> None:
    assert [line for line, _ in lines(FOUND)] == [
        "Service default/web:http",
        "  10.96.0.1:80/tcp",
        "-   -> 10.1.0.1:8080  weight 1",
        "-   -> 10.1.0.2:8080  weight 2",
        "+   -> 10.1.0.2:8080  weight 1",
        "Service kube-system/dns",
        "- [fd00::1]:53/udp",
        "no Service",
        "+ node port 30080/tcp (IPv4)",
        "+   -> 10.1.0.3:8080",
        "mode nftables, which is not in force",
        "+ table ip pointsman",
        "+ 3 frontends",
    ]
    slots = lines(msgspec.structs.replace(FOUND, mode="nftables"))
    assert "-   -> 10.1.0.1:8080  slots 1" in [line for line, _ in slots]


def test_data_has_all_of_it() -> None:
    found = json.loads(msgspec.json.encode(as_document(FOUND)))
    assert found["differences"][0] == {
        "service": "default/web:http",
        "family": 4,
        "address": "10.96.0.1",
        "port": 80,
        "protocol": "tcp",
        "state": "changed",
        "missing": [
            {"address": "10.1.0.1", "port": 8080, "weight": 1}, {"address": "10.1.0.2", "port": 8080, "weight": 2},
        ],
        "extra": [{"address": "10.1.0.2", "port": 8080, "weight": 1}],
    }  # fmt: skip
    rest = {name: value for name, value in found.items() if name != "differences"}
    assert rest == {
        "node": "node-1", "mode": "ipvs", "frontends": 7, "inForce": False, "notes": ["mode x drains"],
        "otherModes": [{"mode": "nftables", "frontends": 3, "found": ["table ip pointsman"]}],
    }  # fmt: skip


class Plane:
    """A dataplane of which only support and content matter."""

    def __init__(self, support: Support, held: Mapping[Frontend, tuple[Backend, ...]] | None = None) -> None:
        self.told = support
        self.held = held or {}
        self.opened = self.closed = 0

    def __call__(self) -> Plane:
        self.opened += 1
        return self

    def support(self) -> Support:
        return self.told

    def read(self) -> Mapping[Frontend, tuple[Backend, ...]]:
        return self.held

    def close(self) -> None:
        self.closed += 1


def kernel_of(**planes: Plane) -> Kernel:
    return Kernel(planes, None, None)  # type: ignore[arg-type]  # nothing else is used


GOOD, BAD = Support(available=True, schedulers=("random", "rr")), Support(available=False, reason="no module")


def planner_with(mode: str, reported: str | None = None) -> Planner:
    planner = Planner("here")
    document = {
        "apiVersion": "pointsman.dev/v1alpha1",
        "kind": "NodeProxy",
        "metadata": {"name": "here"},
        "spec": {"proxyConfig": "default", "mode": mode},
        "status": {"mode": reported} if reported else {},
    }
    planner.put(NodeProxy.read(document))
    planner.resolve()
    return planner


class TestTheModeInForce:
    def test_is_the_one_that_the_agent_reports(self) -> None:
        kernel = kernel_of(nftables=Plane(GOOD), ipvs=Plane(GOOD))
        assert live._in_force(planner_with("ipvs", "nftables"), kernel, "") == ("nftables", GOOD.schedulers)

    def test_is_else_the_one_that_it_would_choose(self) -> None:
        kernel = kernel_of(nftables=Plane(GOOD), ipvs=Plane(BAD))
        assert live._in_force(planner_with("ipvs"), kernel, "")[0] == "nftables"

    def test_is_the_one_that_is_named(self) -> None:
        kernel = kernel_of(nftables=Plane(GOOD), ipvs=Plane(GOOD))
        assert live._in_force(planner_with("nftables", "nftables"), kernel, "ipvs")[0] == "ipvs"

    def test_has_to_work(self) -> None:
        kernel = kernel_of(nftables=Plane(GOOD), ipvs=Plane(BAD))
        with pytest.raises(LoadError, match="mode ipvs does not work here: no module"):
            live._in_force(planner_with("nftables"), kernel, "ipvs")
        with pytest.raises(LoadError, match="no mode 'nft' here; it is one of nftables, ipvs"):
            live._in_force(planner_with("nftables"), kernel, "nft")
        with pytest.raises(LoadError, match="no mode works on this node"):
            live._in_force(planner_with("nftables"), kernel_of(nftables=Plane(BAD)), "")

    def test_what_is_opened_for_a_question_is_closed(self) -> None:
        plane = Plane(GOOD)
        live._in_force(planner_with("nftables"), kernel_of(nftables=plane), "")
        assert plane.opened == plane.closed == 1


@pytest.fixture
def planes(monkeypatch: pytest.MonkeyPatch) -> dict[str, Plane]:
    """Put planes in place of the kernel; nothing of other modes is found but what they say."""
    found = {"nftables": Plane(GOOD), "ipvs": Plane(GOOD)}
    monkeypatch.setattr("pointsman.agent.kernel.real_kernel", lambda **_: kernel_of(**found))
    monkeypatch.setattr("pointsman.agent.startup.check_rights", lambda: None)
    monkeypatch.setattr("pointsman.dataplane.leftovers.held_by", lambda _: None)
    return found


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["diff", "--node-name", "here", *words])


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "web.json"
    spec = {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]}
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": spec}))
    return path


def test_nothing_is_printed_and_the_status_is_0_when_in_force(planes: dict[str, Plane], manifest: Path) -> None:
    planes["nftables"].held = {WEB: ()}
    found = run("-f", str(manifest))
    assert (found.exit_code, found.stdout, found.stderr) == (0, "", "in force: 1 frontend, mode nftables\n")


def test_the_status_is_1_with_a_difference(planes: dict[str, Plane], manifest: Path) -> None:
    planes["nftables"].held = {NODE: (A,)}
    found = run("-f", str(manifest))
    assert (found.exit_code, found.stderr) == (1, "")
    assert found.stdout.splitlines() == [
        "Service default/web", "- 10.96.0.1:80/tcp", "no Service", "+ node port 30080/tcp (IPv4)",
        "+   -> 10.1.0.1:8080",
    ]  # fmt: skip


def test_what_drains_in_ipvs_is_no_difference(planes: dict[str, Plane], manifest: Path) -> None:
    planes["nftables"].held = {WEB: ()}
    planes["ipvs"].held = {WEB: (), Frontend(4, "10.96.0.9", "tcp", 80): ()}
    found = run("-f", str(manifest))
    assert (found.exit_code, found.stdout) == (0, "")
    assert "mode ipvs: 2 frontends, kept for the connections that they carry" in found.stderr
    found = run("-f", str(manifest), "--mode", "ipvs")
    assert "ipvs: 1 frontend, kept for" in found.stderr
    assert found.stdout.splitlines() == ["mode nftables, which is not in force", "+ 1 frontend"]


@pytest.mark.parametrize(("is_empty", "status"), [(True, 0), (False, 1)])
def test_a_proxy_that_nothing_leads_to_any_more_is_no_difference(
    planes: dict[str, Plane], manifest: Path, monkeypatch: pytest.MonkeyPatch, *, is_empty: bool, status: int
) -> None:
    def held_by(mode: str) -> list[Leftover]:
        return [Leftover("table", "ip pointsman-userspace")] if mode == "userspace" else []

    planes["nftables"].held = {WEB: ()}
    planes["userspace"] = Plane(GOOD)
    monkeypatch.setattr("pointsman.dataplane.leftovers.held_by", held_by)
    monkeypatch.setattr("pointsman.dataplane.leftovers.proxy_is_empty", lambda: is_empty)
    found = run("-f", str(manifest))
    assert found.exit_code == status
    assert ("mode userspace: its proxy and what leads there, kept for the connections" in found.stderr) == is_empty
    planes["userspace"].held = {WEB: ()}
    assert run("-f", str(manifest)).exit_code == 1, "what another process's proxy has for a frontend, nobody can read"


def test_a_mode_that_is_named_is_no_problem_of_the_configuration(planes: dict[str, Plane], manifest: Path) -> None:
    planes["ipvs"].held = {WEB: ()}
    config = manifest.parent / "config.yaml"
    spec = "{mode: userspace, fallbackModes: [nftables]}"
    config.write_text(f"{{apiVersion: pointsman.dev/v1alpha1, kind: ProxyConfig, metadata: {{name: c}}, spec: {spec}}}")
    found = run("-f", str(manifest), "--config", str(config), "--mode", "ipvs")
    assert (found.exit_code, found.stderr) == (0, "in force: 1 frontend, mode ipvs\n")


def test_what_another_mode_decides_is_a_difference(planes: dict[str, Plane], manifest: Path) -> None:
    planes["nftables"].held = {WEB: ()}
    planes["ipvs"].held = {WEB: (A,)}
    found = run("-f", str(manifest), "-o", "json")
    assert found.exit_code == 1
    assert json.loads(found.stdout)["otherModes"] == [{"mode": "ipvs", "frontends": 1, "found": []}]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "name one source of objects"),
        (("-f", "x", "--in-cluster"), "leave out one of the two"),
        (("-f", "x", "--server", "https://a"), "leave out one of the two"),
        (("-f", "/nowhere/x.yaml"), "cannot be read"),
        (("--kubeconfig", "/nowhere"), "/nowhere"),
        (("--node-name", " ", "-f", "x"), "it is empty"),
    ],
)
def test_what_cannot_be_found_out_is_status_2(planes: dict[str, Plane], words: tuple[str, ...], message: str) -> None:
    assert planes
    found = run(*words)
    assert found.exit_code == 2
    assert message in re.sub(r"[│\s]+", " ", found.stderr)


def test_a_kernel_that_cannot_be_read_is_status_2(
    planes: dict[str, Plane], manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    def refuse(_: Plane) -> None:
        raise DataplaneError("not now")

    assert planes
    monkeypatch.setattr(Plane, "read", refuse)
    found = run("-f", str(manifest))
    assert (found.exit_code, found.stdout, found.stderr) == (2, "", "pointsman diff: not now\n")


@contextmanager
def api_server(objects: Mapping[str, list[dict[str, Any]]]) -> Iterator[str]:
    """Serve lists by path, and watches in which nothing happens; yields the URL."""

    loop, ready, url, stops = asyncio.new_event_loop(), threading.Event(), list[str](), list[asyncio.Event]()

    async def handle(request: web.Request) -> web.StreamResponse:
        if "watch" in request.query:
            if "sendInitialEvents" in request.query:
                return web.json_response({"kind": "Status", "code": 422, "reason": "Invalid"}, status=422)
            response = web.StreamResponse()
            await response.prepare(request)
            await stops[0].wait()
            return response
        items = objects.get(request.path, [])
        return web.json_response({"kind": "List", "metadata": {"resourceVersion": "5"}, "items": items})

    async def serve() -> None:
        served = web.Application()
        served.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(served, shutdown_timeout=0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        url.append("http://127.0.0.1:{1}".format(*runner.addresses[0]))
        stop = asyncio.Event()
        stops.append(stop)
        ready.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    ready.wait(10)
    try:
        yield url[0]
    finally:
        loop.call_soon_threadsafe(stops[0].set)
        thread.join(10)
        loop.close()


def test_objects_come_from_the_api_server(
    planes: dict[str, Plane], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr("pointsman.cli.diff._PAUSE", 0.0)
    metadata = {"name": "web", "namespace": "default", "resourceVersion": "1"}
    spec = {"clusterIP": "10.96.0.1", "ports": [{"port": 80, "protocol": "TCP"}]}
    objects = {
        "/api/v1/services": [{"metadata": metadata, "spec": spec}],
        "/api/v1/nodes": [{"metadata": {"name": "here", "resourceVersion": "2"}}],
    }
    with api_server(objects) as url:
        file = kubeconfig(tmp_path, {"token": "t"}, server=url)
        words = ("--kubeconfig", str(file), "--timeout", "20")
        found = run(*words)
        assert found.stdout.splitlines() == ["Service default/web", "- 10.96.0.1:80/tcp"]
        planes["nftables"].held = {WEB: ()}
        found = run(*words)
    assert (found.exit_code, found.stdout, found.stderr) == (0, "", "in force: 1 frontend, mode nftables\n")


def test_an_api_server_that_does_not_answer_is_given_up(
    planes: dict[str, Plane], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:  # fmt: skip
    assert planes
    file = kubeconfig(tmp_path, {"token": "t"}, server="http://127.0.0.1:1")
    found = run("--kubeconfig", str(file), "--timeout", "1")
    assert (found.exit_code, found.stdout) == (2, "")
    assert "the API server did not tell all in 1 s: " in found.stderr
    assert "raise --timeout" in found.stderr
    assert "Cannot connect to host 127.0.0.1:1" in caplog.text
