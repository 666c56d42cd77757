"""What other packages add: found by their entry points, guarded, and told of when it cannot be used."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer
from typer.testing import CliRunner

import pointsman.extending
from pointsman.agent.entry_points import find_own
from pointsman.agent.kernel import real_kernel
from pointsman.agent.outcome import Kernel
from pointsman.agent.syncer import Syncer
from pointsman.api.nodeproxy import NodeProxy
from pointsman.cli import explain, render
from pointsman.dataplane.guarded import guarded
from pointsman.dataplane.protocol import Dataplane, DataplaneError, PlainDataplane, Support, Written
from pointsman.model.parse import key_of
from pointsman.model.plan import Delta, Plan
from pointsman.policy.planner import Planner
from support.command_line import web
from support.machine_memory import Machine
from support.plugins import TOY, installed, metadata

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pointsman.model.plan import Backend, Frontend

TOY_MODE = "example.com/toy"
PAGE = (Path(__file__).parents[2] / "docs" / "extending.md").read_text("utf-8")
MANIFEST = web(
    "{addresses: [10.0.0.1]}",
    "{addresses: [10.0.0.2]}",
    annotations="{pointsman.dev/scheduler: example.com/favourite}",
)

Install = Callable[..., None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Install:
    """Install a package `NAME 1.0` that is one module, with entry points."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def add(name: str, source: str, **groups: Mapping[str, str]) -> None:
        (tmp_path / f"{name}.py").write_text(source, "utf-8")
        metadata(tmp_path, name, "1.0", {f"pointsman.{group}": points for group, points in groups.items()})
        sys.modules.pop(name, None)
        importlib.invalidate_caches()

    return add


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for path in installed(TOY, tmp_path / "site"):
        monkeypatch.syspath_prepend(path)
    for name in [name for name in sys.modules if name.startswith("pointsman_toy")]:
        monkeypatch.delitem(sys.modules, name)


def told() -> list[str]:
    return [str(problem) for problem in find_own().problems]


class TestFinding:
    def test_nothing_is_installed(self) -> None:
        assert find_own() == ({}, {}, ())

    @pytest.mark.usefixtures("toy")
    def test_the_example_is_found(self) -> None:
        own = find_own()
        assert set(own.dataplanes) == {TOY_MODE}
        assert {name: scheduler.draw for name, scheduler in own.schedulers.items()} == {
            "example.com/by-client": "client",
            "example.com/favourite": "random",
            "example.com/pairs": "turn",
        }
        assert {scheduler.package for scheduler in own.schedulers.values()} == {"pointsman-toy 1.0"}
        assert not own.problems

    @pytest.mark.usefixtures("toy")
    def test_a_dataplane_is_imported_when_somebody_asks_for_it(self) -> None:
        own = find_own()
        assert "pointsman_toy.dataplane" not in sys.modules
        dataplane = own.dataplanes[TOY_MODE]()
        assert dataplane.mode == TOY_MODE
        dataplane.close()
        assert set(real_kernel(own=own.dataplanes).dataplanes) > {"nftables", "ipvs", TOY_MODE}

    def test_a_name_without_a_domain_is_none(self, install: Install) -> None:
        install("own_names", "", dataplanes={"nftables": "own_names:x"}, schedulers={"Example.com/a": "own_names:x"})
        assert told() == [
            (
                'own_names 1.0: entry point nftables: pointsman.dataplanes: "nftables" is no name for it; give it one '
                "with a domain of yours before it, in lower case, such as example.com/name (left out: this entry point)"
            ),
            (
                'own_names 1.0: entry point Example.com/a: pointsman.schedulers: "Example.com/a" is no name for it; '
                "give it one with a domain of yours before it, in lower case, such as example.com/name "
                "(left out: this entry point)"
            ),
        ]

    def test_of_two_with_one_name_the_first_by_package_is_used(self, install: Install) -> None:
        for package in ("own_b", "own_a"):
            source = "def slots(backends): return backends"
            install(package, source, schedulers={"example.com/x": f"{package}:slots"})
        own = find_own()
        assert own.schedulers["example.com/x"].package == "own_a 1.0"
        assert [str(problem) for problem in own.problems] == [
            (
                "own_b 1.0: entry point example.com/x: pointsman.schedulers: own_a 1.0 has one of the same name; "
                "take one of the two out (left out: this entry point)"
            )
        ]

    @pytest.mark.parametrize(
        ("source", "why"),
        [
            ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
            ("raise RuntimeError('today is Monday')", "RuntimeError: today is Monday"),
            ("y = 1", "AttributeError: module 'own_bad' has no attribute 'x'"),
            ("x = 7", "TypeError: own_bad:x is 7, and no function or pointsman.extending.Scheduler"),
            (
                "from pointsman.extending import Scheduler\nx = Scheduler(list, draw='best')",
                "TypeError: draw is 'best'; allowed: random, client, turn",
            ),
        ],
    )
    def test_a_scheduler_that_cannot_be_used_is_told(self, install: Install, source: str, why: str) -> None:
        install("own_bad", source, schedulers={"example.com/bad": "own_bad:x"})
        own = find_own()
        assert not own.schedulers
        assert [str(problem) for problem in own.problems] == [
            (
                f"own_bad 1.0: entry point example.com/bad: pointsman.schedulers: it cannot be used ({why}); mend "
                "own_bad 1.0, or take it out of the image (left out: this entry point)"
            )
        ]

    def test_a_dataplane_that_cannot_be_imported_is_an_error_when_it_is_opened(self, install: Install) -> None:
        install("own_bad", "raise RuntimeError('no')", dataplanes={"example.com/bad": "own_bad:x"})
        with pytest.raises(DataplaneError) as caught:
            find_own().dataplanes["example.com/bad"]()
        assert str(caught.value) == (
            "the dataplane example.com/bad of own_bad 1.0 cannot be imported: RuntimeError: no"
        )


class Plain(PlainDataplane):
    """One that does what it is told to do."""

    def __init__(self, **answers: object) -> None:
        self.answers = answers

    def support(self) -> Support:
        return self._answer("support", Support(available=True))

    def adopt(self, plan: Plan) -> Written:  # noqa: ARG002 - the protocol's
        return self._answer("adopt", Written())

    def apply(self, delta: Delta) -> Written:  # noqa: ARG002 - the protocol's
        return self._answer("apply", Written())

    def read(self) -> Mapping[Frontend, tuple[Backend, ...]]:
        return self._answer("read", {})

    def cleanup(self) -> None:
        self._answer("cleanup", None)

    def _answer(self, name: str, good: Any) -> Any:  # noqa: ANN401 (some are wrong)
        answer = self.answers.get(name, good)
        if isinstance(answer, Exception):
            raise answer
        return answer


def opened(**answers: object) -> Dataplane:
    return guarded(TOY_MODE, "toy 1.0", lambda: Plain(**answers))


class TestGuard:
    def test_its_name_is_that_of_the_entry_point(self) -> None:
        assert opened().mode == TOY_MODE

    def test_every_verb_comes_through(self) -> None:
        dataplane = opened(adopt=Written(3, 2), carried=1)
        assert dataplane.adopt(Plan({})) == Written(3, 2)
        assert (dataplane.support(), dataplane.read()) == (Support(available=True), {})
        assert (dataplane.carried(), dataplane.disturbed(), dataplane.traffic()) == (0, False, {})
        dataplane.tend()
        dataplane.retire(5.0)
        dataplane.close()

    @pytest.mark.parametrize("verb", ["support", "read", "cleanup"])
    def test_whatever_it_raises_is_an_error_that_names_it(self, verb: str) -> None:
        with pytest.raises(DataplaneError) as caught:
            getattr(opened(**{verb: ValueError("five")}), verb)()
        assert str(caught.value) == f"the dataplane {TOY_MODE} of toy 1.0 failed to {verb}: ValueError: five"

    @pytest.mark.parametrize("error", [DataplaneError("busy"), PermissionError(1, "no")])
    def test_what_the_protocol_knows_is_left_as_it_is(self, error: Exception) -> None:
        with pytest.raises(type(error)) as caught:
            opened(adopt=error).adopt(Plan({}))
        assert caught.value is error

    @pytest.mark.parametrize(("verb", "given"), [("adopt", Plan({})), ("apply", Delta({}))])
    def test_an_answer_that_is_none_is_told(self, verb: str, given: object) -> None:
        dataplane = guarded(TOY_MODE, "toy 1.0", lambda: Plain(**{verb: 7}))
        with pytest.raises(DataplaneError, match=f"{verb} has to return Written, and returned 7"):
            getattr(dataplane, verb)(given)

    @pytest.mark.parametrize(
        ("factory", "why"),
        [
            (lambda: 1 / 0, "cannot be opened: ZeroDivisionError: division by zero"),
            (lambda _needed: Plain(), "cannot be opened: TypeError"),
            (PlainDataplane, "cannot be opened: TypeError: Can't instantiate abstract class"),
            (object, "lacks adopt, apply, carried, cleanup, close, disturbed, "),
            (object, "derive it from pointsman.extending.PlainDataplane"),
        ],
    )
    def test_what_is_no_dataplane_is_told(self, factory: Callable[[], object], why: str) -> None:
        with pytest.raises(DataplaneError) as caught:
            guarded(TOY_MODE, "toy 1.0", factory)
        assert str(caught.value).startswith(f"the dataplane {TOY_MODE} of toy 1.0 ")
        assert why in str(caught.value)


class TestNode:
    """A syncer on a machine with `nftables` and perhaps a dataplane of its own."""

    @staticmethod
    def outcome(own: Mapping[str, Callable[[], Dataplane]], **spec: object) -> tuple[str, str]:
        dataplanes = {**Machine("nftables").dataplanes(), **own}
        kernel = Kernel(dataplanes, lambda: pytest.fail("no UDP"), lambda *_: (), lambda _mode: False)
        syncer = Syncer(Planner("node-1"), kernel)
        config = NodeProxy.read({"metadata": {"name": "node-1"}, "spec": spec})
        facts = syncer.sync({key_of(config): config}, full=True).facts
        return facts.mode, facts.why

    def test_it_is_in_force_when_it_is_asked_for(self) -> None:
        own = {TOY_MODE: opened}
        assert self.outcome(own, mode=TOY_MODE) == (TOY_MODE, "")
        assert self.outcome(own) == ("nftables", "")
        assert self.outcome(own, mode="ipvs", fallbackModes=[TOY_MODE])[0] == TOY_MODE

    def test_one_that_is_not_installed_is_passed_over(self) -> None:
        assert self.outcome({}, mode=TOY_MODE) == (
            "nftables",
            (
                f"{TOY_MODE}: no dataplane {TOY_MODE} is installed on this node; pip install the package that has it "
                "into the agents' image"
            ),
        )

    @pytest.mark.parametrize(
        ("answers", "why"),
        [
            ({"support": Support(available=False, reason="no hardware; buy some")}, "no hardware; buy some"),
            (
                {"support": ValueError("five")},
                f"the dataplane {TOY_MODE} of toy 1.0 failed to support: ValueError: five",
            ),
            (
                {"support": None},
                f"the dataplane {TOY_MODE} of toy 1.0: support has to return Support, and returned None",
            ),
            ({"adopt": ValueError("six")}, f"the dataplane {TOY_MODE} of toy 1.0 failed to adopt: ValueError: six"),
        ],
    )
    def test_one_that_fails_is_passed_over_or_left_again(self, answers: dict[str, object], why: str) -> None:
        dataplanes = {**Machine("nftables").dataplanes(), TOY_MODE: lambda: opened(**answers)}
        kernel = Kernel(dataplanes, lambda: pytest.fail("no UDP"), lambda *_: (), lambda _mode: False)
        syncer = Syncer(Planner("node-1"), kernel)
        for mode in ("nftables", TOY_MODE):
            config = NodeProxy.read({"metadata": {"name": "node-1"}, "spec": {"mode": mode}})
            outcome = syncer.sync({key_of(config): config}, full=True)
        assert (outcome.facts.mode, outcome.facts.wanted) == ("nftables", TOY_MODE)
        assert outcome.facts.why == f"{TOY_MODE}: {why}"
        assert outcome.written is not None

    def test_where_nothing_else_works_it_is_no_reason_to_give_up(self) -> None:
        machine = Machine("nftables")
        machine.unload("nftables")
        kernel = Kernel(
            {**machine.dataplanes(), TOY_MODE: opened},
            lambda: pytest.fail("no UDP"),
            lambda *_: (),
            lambda _mode: False,
        )
        assert Syncer(Planner("node-1"), kernel).why_useless() == ""


@pytest.mark.usefixtures("toy")
class TestCommands:
    @staticmethod
    def run(command: Callable[..., None], tmp_path: Path, *arguments: str, spec: str = "{}") -> Any:  # noqa: ANN401
        (tmp_path / "web.yaml").write_text(MANIFEST)
        (tmp_path / "config.yaml").write_text(
            f"{{apiVersion: pointsman.dev/v1alpha1, kind: ProxyConfig, metadata: {{name: c}}, spec: {spec}}}"
        )
        app = typer.Typer(pretty_exceptions_enable=False)
        app.command()(command)
        files = ("-f", str(tmp_path / "web.yaml"), "--config", str(tmp_path / "config.yaml"))
        return CliRunner().invoke(app, [*files, "--node-name", "here", *arguments])

    def test_render_writes_the_slots(self, tmp_path: Path) -> None:
        found = self.run(render.command, tmp_path)
        assert (found.exit_code, found.stderr) == (0, "")
        assert len(re.findall(r"10\.96\.0\.1 \. tcp \. 80 \. \S+ : 10\.0\.0\.1 \. 8080", found.stdout)) == 9
        assert "numgen random mod 10" in found.stdout

    def test_explain_tells_of_them(self, tmp_path: Path) -> None:
        asked = ("--from", "10.9.9.9", "--to", "10.96.0.1:80", "-o", "json")
        told = json.loads(self.run(explain.command, tmp_path, *asked).stdout)
        assert told["scheduler"] == "example.com/favourite"
        (note,) = [note for note in told["notes"] if "slots" in note]
        assert note.endswith("filled 10 slots, drawn at random: 10.0.0.1:8080 has 9, 10.0.0.2:8080 has 1")

    def test_explain_takes_a_mode_of_somebodys_own_at_its_word(self, tmp_path: Path) -> None:
        asked = ("--from", "10.9.9.9", "--to", "10.96.0.1:80")
        found = self.run(explain.command, tmp_path, *asked, spec="{mode: example.com/toy}")
        assert (found.exit_code, found.stderr) == (0, "")
        assert "scheduler   example.com/favourite\n" in found.stdout

    def test_render_of_such_a_mode_is_refused(self, tmp_path: Path) -> None:
        found = self.run(render.command, tmp_path, spec="{mode: example.com/toy}")
        assert found.exit_code == 1
        assert "mode example.com/toy" in found.stderr


class TestDocs:
    @pytest.mark.parametrize("file", ["pyproject.toml", "pointsman_toy/dataplane.py", "pointsman_toy/schedulers.py"])
    def test_the_page_has_the_very_files(self, file: str) -> None:
        kind = "toml" if file.endswith("toml") else "python"
        assert f"```{kind}\n{(TOY / file).read_text('utf-8')}```\n" in PAGE

    def test_the_page_tells_of_every_verb_and_every_name(self) -> None:
        verbs = {name for name in vars(Dataplane) if not name.startswith("_")}
        table = set(re.findall(r"^\| `(\w+)", PAGE, re.MULTILINE))
        assert verbs <= table
        prose = re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)
        assert [name for name in pointsman.extending.__all__ if not re.search(rf"\b{name}\b", prose)] == []
