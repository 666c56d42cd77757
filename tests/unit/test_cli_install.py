from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from pointsman.api import crds
from pointsman.cli.app import app
from pointsman.install.patience import InstallError
from pointsman.install.run import install_crds
from pointsman.sources.apiserver.access import Access
from support.command_line import said


class Calls:
    def __init__(self) -> None:
        self.made: list[tuple[object, ...]] = []
        self.error: InstallError | None = None

    def __call__(self, *arguments: object) -> None:
        *kept, say = arguments
        self.made.append(tuple(kept))
        if self.error is not None:
            raise self.error
        say("done")  # type: ignore[operator]  # a function


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    calls = Calls()
    monkeypatch.setattr("pointsman.install.run.install_crds", calls)
    monkeypatch.setattr("pointsman.install.run.uninstall_agents", calls)
    return calls


def test_custom_resources_are_printed_without_a_cluster(calls: Calls) -> None:
    result = CliRunner().invoke(app, ["crds"])
    assert result.exit_code == 0
    assert list(yaml.safe_load_all(result.output)) == list(crds.documents())
    assert calls.made == []


def test_custom_resources_are_applied_on_request(calls: Calls) -> None:
    words = "crds --apply --in-cluster --server https://s:6443 --timeout 5"
    result = CliRunner().invoke(app, words.split())
    assert (result.exit_code, result.output) == (0, "done\n")
    assert calls.made == [(Access(in_cluster=True, server="https://s:6443"), 5.0)]


def test_agents_are_uninstalled_where_one_says(calls: Calls) -> None:
    assert CliRunner().invoke(app, ["uninstall", "--in-cluster"]).exit_code == 0
    words = "uninstall --kubeconfig k --context c --namespace n --daemonset d --timeout 9"
    assert CliRunner().invoke(app, words.split()).exit_code == 0
    assert calls.made == [
        (Access(in_cluster=True), "pointsman-system", "pointsman-agent", 120.0),
        (Access(kubeconfig=Path("k"), context="c"), "n", "d", 9.0),
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("crds --in-cluster", "an API server is asked with --apply alone"),
        ("crds --apply", "name one API server: --kubeconfig FILE or --in-cluster"),
        ("uninstall", "name one API server: --kubeconfig FILE or --in-cluster"),
        ("uninstall --in-cluster --timeout 0", "--timeout"),
    ],
)
def test_what_does_not_fit_together_is_refused(calls: Calls, words: str, message: str) -> None:
    result = CliRunner().invoke(app, words.split())
    assert result.exit_code == 2
    assert message in said(result.output)
    assert calls.made == []


@pytest.mark.parametrize("words", ["crds --apply --in-cluster", "uninstall --in-cluster"])
def test_a_failure_is_one_line_and_a_status(calls: Calls, words: str) -> None:
    calls.error = InstallError("the API server refuses: no (403)")
    command, *options = words.split()
    result = CliRunner().invoke(app, [command, *options])
    assert (result.exit_code, result.output) == (1, f"pointsman {command}: {calls.error}\n")


def test_a_missing_kubeconfig_is_named(tmp_path: Path) -> None:
    with pytest.raises(InstallError, match="none: cannot read the file"):
        install_crds(Access(kubeconfig=tmp_path / "none"), 1.0, print)
