"""Tests that run in a guest and count on the host: the guest sends what pytest reports, the host replays it.

Both sides collect the same tests. The guest's side is `Sender`. The host's is `Host`: at the first of these tests it
boots one guest for all of them, and for each test it hands on the guest's reports as if the test had run here.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, Protocol, TextIO

import pytest

from conftest import do_without
from pointsman.lab.namespaces import LabError
from pointsman.lab.vm import kernel, machine
from pointsman.lab.vm.command import SHARED, Job
from pointsman.lab.vm.guest import Guest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

EVENTS: Final = "POINTSMAN_GUEST_EVENTS"
"""Environment variable of the guest's pytest: the file descriptor that `Sender` writes to."""

NODE_IDS: Final = "node-ids"
OUTPUT: Final = "pytest.log"
"""Names in the shared directory: the tests that are to run, one on a line, and what the guest's pytest prints."""

LIMIT: Final = 1800
"""Seconds that all tests together may take."""

_PATIENCE: Final = 60.0
"""Seconds beside a test's own limit (pytest-timeout, in the guest) until the guest counts as hung."""

_FALLBACK_LIMIT: Final = 300.0
_Phase = Literal["setup", "call", "teardown"]
_LAST_LINES: Final = 30


class Sender:
    """The guest's side, a pytest plugin: one line of JSON for each report."""

    def __init__(self, config: pytest.Config, sink: TextIO) -> None:
        self._config = config
        self._sink = sink

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        self._sink.write(json.dumps(data, default=str) + "\n")
        self._sink.flush()


class Lines(Protocol):
    """What the guest says; see `Guest.read_line`."""

    def read_line(self, patience: float) -> str | None: ...


class Replay:
    """The guest's reports, test by test, in whatever order they come."""

    def __init__(self, config: pytest.Config, lines: Lines) -> None:
        self._config = config
        self._lines = lines
        self._reports: dict[str, list[pytest.TestReport]] = {}

    def reports(self, node_id: str, patience: float) -> Iterator[pytest.TestReport]:
        """Yield a test's reports as they come; its teardown's is the last one.

        Raises:
            LabError: the guest ended before, or it says nothing for longer than `patience` seconds.
        """
        while True:
            for report in self._reports.pop(node_id, ()):
                yield report
                if report.when == "teardown":
                    return
            self._receive(patience)

    def _receive(self, patience: float) -> None:
        line = self._lines.read_line(patience)
        if line is None:
            raise LabError("the guest ended too soon")
        if (report := self._decode(line)) is not None:
            self._reports.setdefault(report.nodeid, []).append(report)

    def _decode(self, line: str) -> pytest.TestReport | None:
        try:
            data = json.loads(line)
        except ValueError:  # something else wrote to the guest's output
            return None
        # JSON has no tuples, and pytest asks for them: where a test is, and where and why it was skipped.
        for name in ("location", "longrepr"):
            if isinstance(data.get(name), list):
                data[name] = tuple(data[name])
        report = self._config.hook.pytest_report_from_serializable(config=self._config, data=data)
        return report if isinstance(report, pytest.TestReport) else None


class Host:
    """The host's side, a pytest plugin: boots one guest for the tests below a directory and replays its reports."""

    def __init__(self, config: pytest.Config, directory: Path) -> None:
        self._config = config
        self._directory = directory
        self._resources = contextlib.ExitStack()
        self._replay: Replay | None = None
        self._guest: Guest | None = None
        self._reason = ""  # why there is no guest any more; told by each test that has not run
        self._lacking = ""

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in filter(self._is_ours, items):
            item.add_marker(pytest.mark.timeout(0), append=False)  # it is the guest's to end it; see `_limit`

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        if not self._is_ours(item):
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self._run(item):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        if nextitem is None or not self._is_ours(nextitem):
            self._end()
        return True

    def pytest_sessionfinish(self) -> None:
        self._resources.close()  # after Ctrl-C, or with -x

    def _run(self, item: pytest.Item) -> Iterator[pytest.TestReport]:
        if self._guest is None and not self._reason and not self._lacking:
            self._start(item.session.items)
        if self._lacking:
            yield _report(item, "setup", lambda: do_without(self._lacking))
            return
        if self._replay is None:
            words, self._reason = self._reason, _told_once(self._reason)
            yield _report(item, "setup", lambda: pytest.fail(words, pytrace=False))
            return
        phase: _Phase = "setup"
        try:
            for report in self._replay.reports(item.nodeid, _limit(item) + _PATIENCE):
                yield report
                phase = "teardown" if report.when == "call" else "call"
        except LabError as error:
            words = self._lose(error)
        else:
            return
        self._reason = f"the guest was lost in {item.nodeid}, before this test could run"
        yield _report(item, phase, lambda: pytest.fail(words, pytrace=False))

    def _start(self, items: Sequence[pytest.Item]) -> None:
        try:
            machine.check()
            chosen = kernel.provide(self._say)
        except LabError as error:
            self._lacking = f"a virtual machine: {error}"
            return
        try:
            self._guest = self._boot(chosen, [item.nodeid for item in items if self._is_ours(item)])
            self._replay = Replay(self._config, self._guest)
        except LabError as error:
            self._reason = str(error)
            self._resources.close()

    def _boot(self, chosen: kernel.Kernel, node_ids: list[str]) -> Guest:
        place = Path(self._resources.enter_context(tempfile.TemporaryDirectory(prefix="pointsman-vm-")))
        guest = Guest(chosen, job(self._config, os.environ), place)
        (guest.shared / NODE_IDS).write_text("".join(f"{node_id}\n" for node_id in node_ids), "utf-8")
        self._say(f"a guest with kernel {chosen.release} boots under software emulation")
        self._resources.enter_context(guest)
        self._say(f"{guest.wait_until_up()}; it runs {len(node_ids)} tests")
        return guest

    def _lose(self, error: LabError) -> str:
        """End the guest that is lost, and tell all that is known of why."""
        guest, self._replay = self._guest, None
        if guest is None:
            return str(error)
        words = [str(error), guest.last_words(), *_end_of(guest.shared / OUTPUT)]
        self._resources.close()
        return "\n".join(words)

    def _end(self) -> None:
        """Let the guest write what it has to (coverage), and end it."""
        if self._replay is not None and self._guest is not None:
            with contextlib.suppress(LabError):
                while self._guest.read_line(_PATIENCE) is not None:
                    pass
            _copy_coverage(self._guest.shared, self._config.invocation_params.dir)
        self._resources.close()

    def _is_ours(self, item: pytest.Item) -> bool:
        return item.path.is_relative_to(self._directory)

    def _say(self, words: str) -> None:
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.ensure_newline()
            reporter.write_line(f"vm: {words}")


def job(config: pytest.Config, environment: Mapping[str, str]) -> Job:
    """Say what the guest runs: pytest over the tests of `NODE_IDS`, its reports on the output, the rest in `OUTPUT`."""
    python = [sys.executable]
    if environment.get("COVERAGE_RUN"):
        python += ["-m", "coverage", "run", "--parallel-mode", f"--data-file={SHARED}/.coverage"]
    option = config.option
    words = [f"--tb={option.tbstyle}", *(["--showlocals"] if option.showlocals else []), *["-v"] * option.verbose]
    command = [*python, "-m", "pytest", "-p", "no:cacheprovider", *words, f"@{SHARED}/{NODE_IDS}"]
    apart = ["sh", "-c", f'exec 3>&1 >{SHARED}/{OUTPUT} 2>&1; exec "$@"', "sh"]
    passed = {name: environment[name] for name in ("CI",) if name in environment}
    return Job((*apart, *command), config.rootpath, {**passed, EVENTS: "3"}, LIMIT)


def _told_once(reason: str) -> str:
    """Shorten a reason for the tests behind the first one that tells it."""
    return reason.partition("; ")[0]


def _report(item: pytest.Item, when: _Phase, ends: Callable[[], None]) -> pytest.TestReport:
    """Make the report of a test that did not run in the guest, from what is raised."""
    report: pytest.TestReport = item.ihook.pytest_runtest_makereport(
        item=item, call=pytest.CallInfo.from_call(ends, when=when)
    )
    return report


def _limit(item: pytest.Item) -> float:
    """Tell how long a test may take, from its `timeout` marker or the configuration; behind our own marker of 0."""
    for marker in item.iter_markers("timeout"):
        given = marker.args[0] if marker.args else marker.kwargs.get("timeout", 0)
        if given:
            return float(given)
    return float(item.config.getini("timeout") or _FALLBACK_LIMIT)


def _end_of(log: Path) -> list[str]:
    if not log.exists():
        return []
    return ["the end of what its pytest says:", *log.read_text("utf-8", "replace").splitlines()[-_LAST_LINES:]]


def _copy_coverage(shared: Path, directory: Path) -> None:
    for file in shared.glob(".coverage*"):
        (directory / file.name).write_bytes(file.read_bytes())
