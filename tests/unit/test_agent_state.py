from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pointsman.agent.state import FILE_NAME, StateError, StateKeeper, load, save, without_status
from pointsman.api.nodeproxy import NodeProxy
from pointsman.process.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Callable

    from pointsman.model.problems import Problem

SPEC = {
    "proxyConfig": "default",
    "nodePortRanges": [{"namespaceSelector": {"matchLabels": {"a": "b"}}, "range": "1000-2000"}],
    "nodePortAddresses": ["primary", "10.0.0.0/8"],
    "ipvs": {"tcpTimeout": "15m"},
    "conntrack": {"min": 5},
}


def node_proxy(generation: int = 3, name: str = "node-1") -> NodeProxy:
    status = {"services": 7}
    metadata = {"name": name, "generation": generation, "uid": "u"}
    return NodeProxy.read({"metadata": metadata, "spec": SPEC, "status": status})


def test_what_is_kept_comes_back_without_its_status(tmp_path: Path) -> None:
    save(tmp_path, node_proxy())
    assert load(tmp_path, "node-1") == without_status(node_proxy())
    file = tmp_path / FILE_NAME
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME], "no draft is left"
    assert json.loads(file.read_text())["kind"] == "NodeProxy", "a file that people can read"


def test_an_empty_directory_is_well(tmp_path: Path) -> None:
    assert load(tmp_path, "node-1") is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not valid JSON"),
        (b'{"metadata": {"name": "node-1"}, "spec": {"mode"', "is not valid JSON"),
        (b"\xff", "is not valid JSON"),
        (b"[]", "is no NodeProxy"),
        (b"null", "is no NodeProxy"),
        (b'{"metadata": {"name": "node-1"}, "spec": {"mode": "magic"}}', "spec.mode: 'magic' is not allowed"),
        (b'{"metadata": {"name": "node-2"}, "spec": {}}', "is of node node-2, this node is node-1"),
    ],
)
def test_a_broken_file_is_told(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises(StateError) as raised:
        load(tmp_path, "node-1")
    assert message in str(raised.value)
    assert str(tmp_path) in str(raised.value)
    assert "written anew" in str(raised.value)


def test_a_missing_directory_is_made_for_the_agent_alone(tmp_path: Path) -> None:
    assert load(tmp_path / "lib" / "none", "node-1") is None
    assert (tmp_path / "lib" / "none").stat().st_mode & 0o777 == 0o700


def test_a_directory_that_cannot_be_made_is_told() -> None:
    with pytest.raises(StateError, match="create it, or name another one"):
        load(Path("/proc/none"), "node-1")


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(StateError, match="cannot be read"):
        load(tmp_path, "node-1")


def test_a_link_in_place_of_the_draft_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("precious")
    (tmp_path / f".{FILE_NAME}.new").symlink_to(target)
    with pytest.raises(OSError, match="symbolic link"):
        save(tmp_path, node_proxy())
    assert target.read_text() == "precious"


class Impatient(SystemClock):
    """Waits for a moment where others wait for half a minute."""

    async def wait(self, event: asyncio.Event, seconds: float | None) -> bool:
        return await super().wait(event, None if seconds is None else 0.01)


def run_keeper(directory: Path, scenario: Callable[[StateKeeper, list[tuple[Problem, ...]]], object]) -> None:
    async def main() -> None:
        told: list[tuple[Problem, ...]] = []
        keeper = StateKeeper(directory, None, told.append, Impatient())
        running = asyncio.create_task(keeper.run())
        async with asyncio.timeout(20):
            await scenario(keeper, told)  # type: ignore[misc]  # a coroutine function
        running.cancel()

    asyncio.run(main())


async def until(done: Callable[[], bool]) -> None:
    while not done():  # noqa: ASYNC110 (a file has no event to wait for)
        await asyncio.sleep(0.005)


def test_what_is_in_force_is_kept(tmp_path: Path) -> None:
    async def scenario(keeper: StateKeeper, told: list[tuple[Problem, ...]]) -> None:
        keeper.keep(None)
        keeper.keep(without_status(node_proxy(1)))
        keeper.keep(without_status(node_proxy(2)))
        await until(lambda: bool(told))
        kept = load(tmp_path, "node-1")
        assert kept is not None
        assert kept.generation == 2
        assert told == [()], "written once"

    run_keeper(tmp_path, scenario)


def test_a_directory_that_comes_later_is_used_then(tmp_path: Path) -> None:
    directory = tmp_path / "later"

    async def scenario(keeper: StateKeeper, told: list[tuple[Problem, ...]]) -> None:
        keeper.keep(without_status(node_proxy()))
        await until(lambda: bool(told))
        (problem,) = told[0]
        assert "cannot be written (No such file or directory); create it" in str(problem)
        directory.mkdir()
        await until(lambda: told[-1] == ())
        assert load(directory, "node-1") is not None

    run_keeper(directory, scenario)
