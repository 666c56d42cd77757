"""The agent's small parts: logs, rights, configuration file, worker thread, memory."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import threading
from typing import TYPE_CHECKING

import pytest

from pointsman.agent import memory
from pointsman.agent.startup import AgentError, check_rights, read_config
from pointsman.agent.worker import WorkerThread
from pointsman.model.problems import Problem
from pointsman.process.logs import JsonFormatter, ProblemLog, configure

if TYPE_CHECKING:
    from pathlib import Path

WRONG = Problem("a.yaml", "Service default/web", "spec.ports[0].port", "0 is no port", "write 1 to 65535")


def test_a_problem_is_logged_when_it_comes_and_when_it_goes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log = ProblemLog()
    log.update("manifests", [WRONG])
    log.update("manifests", [WRONG])
    log.update("other", [])
    log.update("manifests", [])
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", str(WRONG)),
        ("INFO", f"no longer: {WRONG}"),
    ]


def test_all_problems_there_are_now_can_be_asked_for() -> None:
    log = ProblemLog()
    other = Problem("", "Service default/a", "", "x", "y")
    log.update("manifests", [WRONG])
    log.update("objects", [WRONG, other])
    assert log.problems == (other, WRONG)
    log.update("objects", [])
    assert log.problems == (WRONG,)


def test_json_lines_hold_message_and_exception() -> None:
    try:
        raise KeyError("x")  # noqa: TRY301 (an exception with a traceback is what is wanted)
    except KeyError as error:
        info = (KeyError, error, error.__traceback__)
    record = logging.LogRecord("pointsman.agent", logging.ERROR, "f.py", 1, "went %s", ("wrong",), info)
    entry = json.loads(JsonFormatter().format(record))
    assert (entry["level"], entry["logger"], entry["message"]) == ("error", "pointsman.agent", "went wrong")
    assert "KeyError" in entry["exception"]
    assert entry["time"].endswith("+00:00")


def test_missing_rights_are_told_with_a_remedy(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tx\nCapEff:\t0000000000001000\n")
    check_rights(status)
    status.write_text("Name:\tx\nCapEff:\t0000000000000fff\n")
    with pytest.raises(AgentError, match=r"needs CAP_NET_ADMIN.*unshare -rn"):
        check_rights(status)


CONFIG = "apiVersion: pointsman.dev/v1alpha1\nkind: ProxyConfig\nmetadata: {name: x}\nspec: {minSyncPeriod: 1s}\n"


def test_a_configuration_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(CONFIG)
    assert read_config(file).min_sync_period == 1.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot read the file .*name another one"),
        (CONFIG.replace("1s", "soon"), "minSyncPeriod.*soon"),
        (CONFIG + "---\n" + CONFIG.replace("name: x", "name: y"), "has 2 ProxyConfig objects.*exactly one"),
        ("apiVersion: v1\nkind: Namespace\nmetadata: {name: x}\n", "0 ProxyConfig objects and 1 others"),
        ("kind: [", "not valid YAML"),
    ],
)
def test_a_bad_configuration_file_is_told_with_a_remedy(tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "config.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(AgentError, match=f"--config .*{message}"):
        read_config(file)


def test_the_worker_always_uses_one_thread() -> None:
    worker = WorkerThread("test")
    last: list[int] = []

    async def scenario() -> set[int]:
        return {await worker.run(threading.get_ident) for _ in range(5)}

    threads = asyncio.run(scenario())
    worker.close(lambda: last.append(threading.get_ident()))
    assert threads == set(last)
    assert threads != {threading.get_ident()}


def test_memory_is_left_to_the_collector_again() -> None:
    try:
        memory.settle()
        assert gc.isenabled()
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()


def test_the_log_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        configure("json", verbose=False)
        logging.getLogger("x").info("told")
        logging.getLogger("x").debug("not told")
    finally:
        root.handlers, root.level = before, level
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["message"] == "told"
