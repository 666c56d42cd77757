from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pointsman.cli.app import app
from pointsman.controller.options import OperatorOptions
from pointsman.controller.run import OperatorError, run
from pointsman.sources.apiserver.access import Access


class Calls:
    def __init__(self) -> None:
        self.options: list[OperatorOptions] = []
        self.logging: list[tuple[str, bool]] = []
        self.error: Exception | None = None

    def run(self, options: OperatorOptions) -> None:
        self.options.append(options)
        if self.error is not None:
            raise self.error

    def configure(self, log_format: str, *, verbose: bool) -> None:
        self.logging.append((log_format, verbose))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    calls = Calls()
    monkeypatch.setattr("pointsman.controller.run.run", calls.run)
    monkeypatch.setattr("pointsman.process.logs.configure", calls.configure)
    return calls


def test_the_operator_gets_its_defaults(calls: Calls) -> None:
    result = CliRunner().invoke(app, ["operator", "--in-cluster"])
    assert result.exit_code == 0
    (options,) = calls.options
    assert options == OperatorOptions(Access(in_cluster=True), options.identity)
    assert calls.logging == [("text", False)]


def test_no_two_replicas_of_one_host_are_called_the_same(calls: Calls) -> None:
    for _ in range(2):
        CliRunner().invoke(app, ["operator", "--in-cluster"])
    assert len({options.identity for options in calls.options}) == 2


def test_the_operator_gets_what_it_is_told(calls: Calls) -> None:
    words = (
        "operator --kubeconfig k --context c --server https://s --namespace n --identity i --webhook-address 1.2.3.4:5"
    )
    words += (
        " --webhook-host a --webhook-host b --webhook-certificates secret --healthz-address :1 -v --log-format json"
    )
    assert CliRunner().invoke(app, words.split()).exit_code == 0
    access = Access(kubeconfig=Path("k"), context="c", server="https://s")
    wanted = OperatorOptions(access, "i", "n", "1.2.3.4:5", ("a", "b"), makes_certificates=False, healthz_address=":1")
    assert calls.options == [wanted]
    assert calls.logging == [("json", True)]


@pytest.mark.parametrize(
    "words", ["operator", "operator --in-cluster --kubeconfig k", "operator --in-cluster --context c"]
)
def test_what_does_not_fit_together_is_refused(calls: Calls, words: str) -> None:
    result = CliRunner().invoke(app, words.split())
    assert result.exit_code == 2
    assert "--kubeconfig" in result.output
    assert calls.options == []


def test_an_error_is_said_on_one_line(calls: Calls) -> None:
    calls.error = OperatorError("--webhook-address x: is no address with a port")
    result = CliRunner().invoke(app, ["operator", "--in-cluster"])
    assert (result.exit_code, result.output) == (1, f"pointsman operator: {calls.error}\n")


@pytest.mark.parametrize("flag", ["webhook_address", "healthz_address"])
def test_a_wrong_address_is_named(flag: str) -> None:
    with pytest.raises(OperatorError, match=f"--{flag.replace('_', '-')} here: is no address"):
        run(OperatorOptions(Access(in_cluster=True), "i", **{flag: "here"}))  # type: ignore[arg-type]  # either is text


def test_a_missing_kubeconfig_is_named(tmp_path: Path) -> None:
    access = Access(kubeconfig=tmp_path / "none")
    with pytest.raises(OperatorError, match="none: cannot read the file"):
        run(OperatorOptions(access, "i"))


def test_help_needs_neither_kopf_nor_kubernetes() -> None:
    program = (
        "import sys; from typer.testing import CliRunner; from pointsman.cli.app import app;"
        "CliRunner().invoke(app, ['operator', '--help']);"
        "print([name for name in ('kopf', 'kubernetes', 'aiohttp', 'cryptography') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
