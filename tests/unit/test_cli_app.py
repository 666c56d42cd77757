from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from pointsman import __version__
from pointsman.agent.run import AgentOptions
from pointsman.agent.startup import AgentError
from pointsman.cli.app import app
from pointsman.sources.apiserver.access import Access

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn


class Calls:
    def __init__(self) -> None:
        self.options: list[AgentOptions] = []
        self.logging: list[tuple[str, bool]] = []
        self.error: Exception | None = None

    def run(self, options: AgentOptions) -> None:
        self.options.append(options)
        if self.error is not None:
            raise self.error

    def configure(self, log_format: str, *, verbose: bool) -> None:
        self.logging.append((log_format, verbose))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    calls = Calls()
    monkeypatch.setattr("pointsman.agent.run.run", calls.run)
    monkeypatch.setattr("pointsman.process.logs.configure", calls.configure)
    return calls


def test_the_version_is_printed() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.output) == (0, f"pointsman {__version__}\n")


def test_the_help_names_every_command() -> None:
    output = CliRunner().invoke(app, ["--help"]).output
    looking = ("render", "explain", "diff", "top", "trace")
    for command in ("agent", "operator", *looking, "lab", "migrate", "cleanup", "crds", "uninstall"):
        assert f"\n  {command} " in output


def test_the_agent_gets_its_defaults(calls: Calls) -> None:
    result = CliRunner().invoke(app, ["agent", "--manifests", "/etc/services", "--node-name", "node-1"])
    assert result.exit_code == 0
    assert calls.options == [AgentOptions(Path("/etc/services"), "node-1", None, "0.0.0.0:10256", "127.0.0.1:10249")]
    assert calls.logging == [("text", False)]


def test_the_agent_gets_every_option(calls: Calls) -> None:
    arguments = "agent --manifests m --node-name n --config c.yaml --healthz-address [::]:1 --metrics-address :2 -v"
    result = CliRunner().invoke(app, [*arguments.split(), "--log-format", "json"])
    assert result.exit_code == 0
    assert calls.options == [AgentOptions(Path("m"), "n", Path("c.yaml"), "[::]:1", ":2")]
    assert calls.logging == [("json", True)]


def test_what_stops_the_agent_is_one_line_and_a_status(calls: Calls) -> None:
    calls.error = AgentError("--manifests m: cannot read the directory; create it")
    result = CliRunner().invoke(app, ["agent", "--manifests", "m", "--node-name", "n"])
    assert result.exit_code == 1
    assert result.stderr == "pointsman agent: --manifests m: cannot read the directory; create it\n"


def test_the_agent_gets_an_api_server(calls: Calls) -> None:
    arguments = "agent --kubeconfig k --context c --server https://x --node-name n --state-dir /s --namespace ns"
    result = CliRunner().invoke(app, arguments.split())
    assert result.exit_code == 0
    access = Access(Path("k"), "c", server="https://x")
    assert calls.options == [AgentOptions(access, "n", state_dir=Path("/s"), namespace="ns")]
    result = CliRunner().invoke(app, ["agent", "--in-cluster", "--node-name", "n"])
    assert result.exit_code == 0
    assert calls.options[1] == AgentOptions(Access(in_cluster=True), "n")


def test_the_agent_gets_what_a_container_needs(calls: Calls) -> None:
    arguments = "agent --in-cluster --node-name n --clean-up-with pointsman-agent --sysctl-root /host/proc/sys"
    assert CliRunner().invoke(app, arguments.split()).exit_code == 0
    sysctl_root = Path("/host/proc/sys")
    wanted = AgentOptions(Access(in_cluster=True), "n", clean_up_with="pointsman-agent", sysctl_root=sysctl_root)
    assert calls.options == [wanted]


def test_the_agent_shows_connections_as_metrics_when_it_is_asked_to(calls: Calls) -> None:
    arguments = ["agent", "--manifests", "m", "--node-name", "n", "--connection-metrics"]
    assert CliRunner().invoke(app, [*arguments, "500"]).exit_code == 0
    assert calls.options == [AgentOptions(Path("m"), "n", connection_metrics=500)]
    assert CliRunner().invoke(app, [*arguments, "-1"]).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "name one source of objects: --manifests DIR, --kubeconfig FILE or --in-cluster"),
        ("--manifests m --kubeconfig k", "name one source"),
        ("--kubeconfig k --in-cluster", "name one source"),
        ("--in-cluster --context c", "--context is of a kubeconfig file"),
        ("--manifests m --server https://x", "--server is of an API server"),
        ("--manifests m --clean-up-with d", "--clean-up-with asks an API server; leave it out with --manifests"),
    ],
)
def test_the_agent_follows_exactly_one_source(calls: Calls, arguments: str, message: str) -> None:
    result = CliRunner().invoke(app, ["agent", "--node-name", "n", *arguments.split()])
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert calls.options == []


def test_missing_options_are_named() -> None:
    result = CliRunner().invoke(app, ["agent", "--manifests", "m"])
    assert result.exit_code == 2
    assert "--node-name" in result.stderr


@pytest.mark.parametrize("module", ["pointsman.cli.app", "pointsman.agent.run"])
def test_heavy_libraries_are_loaded_only_where_they_are_needed(module: str) -> None:
    heavy = {"kopf", "kubernetes", "aiohttp", "cryptography", "prometheus_client"}
    script = f"import sys, {module}; print(sorted({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    "arguments", ["agent --manifests m", "render -f m", "explain -f m --from 10.0.0.1 --to 10.96.0.1:80"]
)
def test_an_empty_node_name_is_refused(calls: Calls, arguments: str) -> None:
    result = CliRunner().invoke(app, [*arguments.split(), "--node-name", ""])
    assert result.exit_code == 2
    assert "it is empty" in result.stderr
    assert calls.options == []


@pytest.mark.parametrize(("pid", "handled"), [(1, True), (2, False)])
def test_the_first_process_of_a_container_asks_for_sigterm(
    monkeypatch: pytest.MonkeyPatch,
    calls: Calls,
    pid: int,
    handled: bool,  # noqa: FBT001 (of the table)
) -> None:
    asked: dict[int, Callable[[int, None], NoReturn]] = {}
    monkeypatch.setattr("pointsman.cli.app.os.getpid", lambda: pid)
    monkeypatch.setattr("pointsman.cli.app.signal.signal", asked.__setitem__)
    assert CliRunner().invoke(app, ["agent", "--manifests", "m", "--node-name", "n"]).exit_code == 0
    assert (signal.SIGTERM in asked) is handled
    assert len(calls.options) == 1
    if handled:
        with pytest.raises(SystemExit, match="143"):
            asked[signal.SIGTERM](signal.SIGTERM, None)
