"""Tests of a guest count on the host as if they ran there; the guest is a stand-in, both sides are pytest itself."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from support.guest_reports import EVENTS
from support.guest_stand_in import VIRTME

TESTS = Path(__file__).parents[1]

SETTINGS = f"""
[pytest]
pythonpath = {TESTS}
addopts = --import-mode=importlib
timeout = 60
"""

CONFTEST = """
import os
from pathlib import Path

import pytest
from pointsman.lab.namespaces import LabError
from pointsman.lab.vm import kernel, machine
from support.guest_reports import EVENTS, Host, Sender

HERE = Path(__file__).parent


def check():
    if (HERE / "lacking").exists():
        raise LabError("no QEMU here")


def pytest_configure(config):
    machine.check = check
    machine.find_virtme = lambda: HERE / "virtme-run"
    kernel.provide = lambda say: kernel.Kernel("6.1", HERE)
    if EVENTS in os.environ:
        plugin = Sender(config, os.fdopen(int(os.environ[EVENTS]), "w"))
    else:
        plugin = Host(config, HERE)
    config.pluginmanager.register(plugin)
"""

CASES = """
import os
import pytest


def test_runs_in_the_guest_alone():
    assert os.environ["POINTSMAN_GUEST_EVENTS"] == "3"
    os.write(1, b"noise\\n")
    print("captured words")


@pytest.mark.parametrize("word", ["a b", "c::d"])
def test_each(word):
    assert word == "a b"


@pytest.mark.skip(reason="not today")
def test_skipped(): ...


@pytest.mark.xfail(reason="some day")
def test_expected(): assert False


@pytest.fixture
def broken():
    yield
    raise RuntimeError("torn")


def test_torn_down(broken): ...
"""

DYING = """
import os
import time
import pytest


def test_before(): ...


def test_dies():
    os.write(2, b"last words of pytest")
    os.system("echo oops > /proc/self/fd/2")
    os._exit(9)


def test_after(): ...


def test_after_that(): ...
"""

ELSEWHERE = """
import os
import pytest


@pytest.fixture(scope="session")
def state():
    yield []
    assert "POINTSMAN_GUEST_EVENTS" not in os.environ


def test_here(state): ...
"""


class Project:
    """A directory with tests of its own: `vm` is for the guest."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("vm", "other"):
            (root / name).mkdir()
        self.write("pytest.ini", SETTINGS)
        self.write("vm/conftest.py", CONFTEST)
        self.write("vm/virtme-run", VIRTME)
        (root / "vm/virtme-run").chmod(0o755)

    def write(self, name: str, text: str = "") -> None:
        (self.root / name).write_text(text)

    def run(self, *arguments: str, **environment: str) -> Results:
        command = [sys.executable, "-m", "pytest", "--junit-xml=junit.xml", "-p", "no:cacheprovider", *arguments]
        alone = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": "pytest_timeout"}  # starts in half the time
        inherited = {name: value for name, value in os.environ.items() if name not in ("CI", EVENTS)}
        done = subprocess.run(
            command,
            cwd=self.root,
            env={**inherited, **alone, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        return Results(done.stdout + done.stderr, self.root / "junit.xml")


class Results:
    """What a run said.

    Attributes:
        output: all that it printed.
        verdicts: of each test, by its name.
        texts: the messages behind these.
    """

    def __init__(self, output: str, junit: Path) -> None:
        self.output = output
        self.verdicts: dict[str, str] = {}
        self.texts: dict[str, str] = {}
        for case in ET.parse(junit).iter("testcase"):  # noqa: S314 - pytest's own
            name = case.attrib["name"]
            found = [part for part in case if part.tag in ("failure", "error", "skipped")]
            self.verdicts[name] = "+".join(part.tag for part in found) or "passed"
            self.texts[name] = "\n".join(f"{part.get('message')}\n{part.text}" for part in found)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_each_test_counts_with_its_own_verdict(project: Project) -> None:
    project.write("vm/test_cases.py", CASES)
    results = project.run("vm", "-rA")
    assert results.verdicts == {
        "test_runs_in_the_guest_alone": "passed",
        "test_each[a b]": "passed",
        "test_each[c::d]": "failure",
        "test_skipped": "skipped",
        "test_expected": "skipped",
        "test_torn_down": "error",
    }
    assert "AssertionError: assert 'c::d' == 'a b'" in results.texts["test_each[c::d]"]
    assert "not today" in results.texts["test_skipped"]
    assert "RuntimeError: torn" in results.texts["test_torn_down"]
    assert "captured words" in results.output
    assert "vm: up after 1.5 s; it runs 6 tests" in results.output
    assert "1 failed, 3 passed, 1 skipped, 1 xfailed, 1 error in" in results.output


def test_what_is_chosen_runs_in_the_guest_alone(project: Project) -> None:
    project.write("vm/test_cases.py", CASES)
    chosen = ("vm/test_cases.py::test_each[c::d]", "vm/test_cases.py::test_each[a b]", "vm/test_cases.py::test_skipped")
    results = project.run(*chosen, "-k", "not skipped")
    assert "it runs 2 tests" in results.output
    assert results.verdicts == {"test_each[c::d]": "failure", "test_each[a b]": "passed"}


def test_tests_of_other_directories_run_here(project: Project) -> None:
    project.write("vm/test_cases.py", CASES)
    project.write("other/test_before.py", ELSEWHERE)
    project.write("other/test_behind.py", ELSEWHERE)
    results = project.run("other/test_before.py", "vm/test_cases.py::test_each", "other/test_behind.py")
    assert "1 failed, 3 passed" in results.output


def test_the_first_failure_ends_the_run_when_asked(project: Project) -> None:
    project.write("vm/test_cases.py", CASES)
    results = project.run("vm", "-x")
    assert list(results.verdicts)[-1] == "test_each[c::d]"
    assert "stopping after 1 failures" in results.output


def test_a_guest_that_dies_fails_its_test_and_all_behind_it(project: Project) -> None:
    project.write("vm/test_dying.py", DYING)
    results = project.run("vm")
    assert results.verdicts == {
        "test_before": "passed",
        "test_dies": "failure",
        "test_after": "error",
        "test_after_that": "error",
    }
    assert "the guest ended too soon" in results.texts["test_dies"]
    for name in ("test_after", "test_after_that"):
        assert "lost in vm/test_dying.py::test_dies, before this test could run" in results.texts[name]


def test_a_guest_that_hangs_fails_its_tests(project: Project) -> None:
    project.write("vm/test_hanging.py", "import os, signal\ndef test_hangs(): os.kill(os.getpid(), signal.SIGSTOP)\n")
    project.write("vm/conftest.py", CONFTEST + "\nimport support.guest_reports as r\nr._PATIENCE = -59.0\n")
    results = project.run("vm")
    assert "the guest has been silent for too long" in results.texts["test_hangs"]


def test_a_guest_that_does_not_boot_fails_its_tests(project: Project) -> None:
    project.write("vm/test_dying.py", DYING)
    project.write("vm/virtme-run", "#!/bin/sh\necho 'Kernel panic - not syncing' >&2\nexit 255\n")
    results = project.run("vm")
    assert set(results.verdicts.values()) == {"error"}
    assert "Kernel panic" in results.texts["test_before"]
    assert "the guest ended before it was up" in results.texts["test_after"]
    assert "Kernel panic" not in results.texts["test_after"], "once is enough"


def test_tests_that_the_guest_cannot_import_are_told_with_its_pytests_words(project: Project) -> None:
    project.write(
        "vm/test_other.py", "import os\nif 'POINTSMAN_GUEST_EVENTS' in os.environ: 1 / 0\ndef test_one(): ...\n"
    )
    results = project.run("vm")
    assert "ZeroDivisionError" in results.texts["test_one"]


def test_a_machine_without_what_a_guest_needs_skips_its_tests_and_fails_in_ci(project: Project) -> None:
    project.write("vm/test_dying.py", DYING)
    project.write("vm/lacking")
    skipped = project.run("vm")
    assert set(skipped.verdicts.values()) == {"skipped"}
    assert "this machine lacks a virtual machine: no QEMU here" in skipped.texts["test_before"]
    failed = project.run("vm", CI="true")
    assert set(failed.verdicts.values()) == {"error"}
    assert "CI=true, and this machine lacks a virtual machine: no QEMU here" in failed.texts["test_before"]
