from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from pointsman.cli import explain, render
from pointsman.cli.explain_text import lay_out
from pointsman.cli.loading import load
from support.command_line import SENSELESS, said, web

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from click.testing import Result

MANIFEST = (
    web(
        "{addresses: [10.0.0.1], nodeName: here}",
        "{addresses: [10.0.0.2], nodeName: there, conditions: {ready: false}}",
        spec="{sessionAffinity: ClientIP}",
    )
    + """
---
apiVersion: v1
kind: Service
metadata: {namespace: default, name: bad}
spec: {clusterIP: 10.96.0.2, ports: [{port: 99999}]}
"""
)
CONFIG = """
apiVersion: pointsman.dev/v1alpha1
kind: ProxyConfig
metadata: {name: mine}
spec: {scheduler: rr, podCIDRs: [10.0.0.0/8]}
"""


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "manifests" / "web.yaml"
    path.parent.mkdir()
    path.write_text(MANIFEST)
    (path.parent / ".hidden.yaml").write_text("- broken: [")
    return path


def run(command: Callable[..., None], *arguments: str, stdin: str | None = None) -> Result:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(command)
    return CliRunner().invoke(app, [*arguments, "--node-name", "here"], input=stdin)


def ask(path: object, *more: str, stdin: str | None = None) -> Result:
    arguments = ("-f", str(path), "--from", "10.0.0.7", "--to", "10.96.0.1:80")
    return run(explain.command, *arguments, *more, stdin=stdin)


def test_text(manifest: Path) -> None:
    result = ask(manifest)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert "verdict     forwarded" in lines
    assert "Service     default/web" in lines
    assert "frontend    cluster IP 10.96.0.1, port 80/tcp" in lines
    assert "  -> 10.0.0.1:8080  node here, weight 1: it is ready" in lines
    assert "  -- 10.0.0.2:8080  node there, weight 1: it is not ready" in lines
    assert "the client stays with its endpoint for 10800 s" in result.stdout
    assert "99999" in result.stderr
    assert "\x1b" not in result.stdout


def test_json(manifest: Path) -> None:
    result = ask(manifest, "-o", "json")
    found = json.loads(result.stdout)
    assert found["verdict"] == "forwarded"
    assert found["addressKind"] == "cluster IP"
    assert [endpoint["used"] for endpoint in found["endpoints"]] == [True, False]


def test_directories_standard_input_and_configuration(manifest: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG)
    for path, stdin in ((manifest.parent, None), ("-", MANIFEST)):
        result = ask(path, "--config", str(config), "-o", "json", stdin=stdin)
        assert json.loads(result.stdout)["scheduler"] == "rr"


def test_more_files_by_a_pattern_of_the_shell(manifest: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG)
    result = ask(manifest, "-o", "json", str(config))
    assert json.loads(result.stdout)["scheduler"] == "rr"


def test_a_terminal_gets_colours(manifest: Path) -> None:
    from pointsman.policy.explain import explain as explain_connection  # noqa: PLC0415 (the module's name is taken)

    planner, _ = load([manifest], "here", None)
    screen = io.StringIO()
    lay_out(
        explain_connection(planner, "10.0.0.7", "10.96.0.1", 80),
        Console(file=screen, force_terminal=True, color_system="standard", width=100),
    )
    assert "forwarded" in screen.getvalue()
    assert "\x1b[1;32m" in screen.getvalue()


@pytest.mark.parametrize(("source", "destination", "words"), SENSELESS)
def test_questions_that_make_no_sense(manifest: Path, source: str, destination: str, words: str) -> None:
    result = run(explain.command, "-f", str(manifest), "--from", source, "--to", destination)
    assert result.exit_code == 2
    assert words in said(result.stderr)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.96.0.1:53/udp", ("10.96.0.1", 53, "udp")),
        ("010.96.0.1:53/UDP", ("10.96.0.1", 53, "udp")),
        ("[FD00::0:1]:80", ("fd00::1", 80, "tcp")),
    ],
)
def test_destinations(text: str, expected: tuple[str, int, str]) -> None:
    assert explain.parse_destination(text) == expected


def test_files_that_cannot_be_used(manifest: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for path in (tmp_path / "none.yaml", empty):
        for result in (ask(path), run(render.command, "-f", str(path))):
            assert result.exit_code == 1
            assert str(path) in result.stderr
    result = ask(manifest, "--config", str(manifest))
    assert result.exit_code == 1
    assert "--config" in result.stderr


def test_render(manifest: Path) -> None:
    result = run(render.command, "-f", str(manifest), "--mode", "nftables")
    assert result.exit_code == 0
    assert "10.96.0.1" in result.stdout
    assert "10.0.0.1" in result.stdout
    assert "10.0.0.2" not in result.stdout
    assert "99999" in result.stderr
    assert result.stdout.endswith("\n")


@pytest.mark.parametrize("mode", ["ipvs", "iptables"])
def test_a_mode_that_is_named_is_no_problem_of_the_configuration(manifest: Path, tmp_path: Path, mode: str) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG.replace("scheduler: rr", "mode: userspace, fallbackModes: [nftables]"))
    result = run(render.command, "-f", str(manifest), "--config", str(config), "--mode", mode)
    assert result.exit_code == 0
    assert "99999" in result.stderr
    assert "supports none of" not in result.stderr


def test_an_endpoint_without_the_port_has_no_weight(manifest: Path) -> None:
    manifest.write_text(MANIFEST.replace("port: 8080, protocol: TCP", "name: other, port: 8080"))
    assert "  -- 10.0.0.1  node here: EndpointSlice web-1 has no port" in ask(manifest).stdout


@pytest.mark.parametrize("text", ["- broken: [", ""])
def test_nothing_to_read_is_a_failure(text: str) -> None:
    result = ask("-", stdin=text)
    assert result.exit_code == 1
    assert "no object could be read" in result.stderr
