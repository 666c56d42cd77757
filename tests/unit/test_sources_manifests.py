from __future__ import annotations

import asyncio
import os
import shutil
from contextlib import aclosing
from typing import TYPE_CHECKING

import pytest

from pointsman.sources.manifest_files import ManifestFiles
from pointsman.sources.manifests import ManifestSource
from pointsman.sources.protocol import Batch, SourceError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


def namespace(name: str, label: str = "x") -> str:
    return f"apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n  labels: {{is: {label}}}\n---\n"


def service(name: str, port: object = 80) -> str:
    return (
        f"apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n"
        f"spec: {{clusterIP: 10.96.0.1, ports: [{{port: {port}}}]}}\n---\n"
    )


def told(batch: Batch | None) -> dict[str, bool]:
    """The names of a batch's objects, and whether each is there now."""
    assert batch is not None
    return {change.key.name: change.obj is not None for change in batch.changes}


def problems(batch: Batch | None) -> list[str]:
    assert batch is not None
    return [str(problem) for problem in batch.problems or ()]


class Tree:
    """A directory, with file times that are old enough to be trusted."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = ManifestFiles(root)
        self._time = 1_000_000_000

    def write(self, name: str, text: str | bytes) -> str:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        self._time += 1
        os.utime(path, (self._time, self._time))
        return str(path)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_only_manifests_are_read(tree: Tree) -> None:
    for name in ("a.yaml", "b.yml", "c.json", "sub/deep/d.yaml"):
        text = '{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"c"}}'
        tree.write(name, text if name == "c.json" else namespace(name.rpartition("/")[2][0]))
    for name in (".hidden.yaml", "a.yaml~", "a.yaml.swp", "#a.yaml", "README.md", ".git/x.yaml", "..data/x.yaml"):
        tree.write(name, namespace("never"))
    os.mkfifo(tree.root / "pipe.yaml")
    batch = tree.files.scan()
    assert told(batch) == {"a": True, "b": True, "c": True, "d": True}
    assert problems(batch) == []
    assert tree.files.scan() is None


def test_an_empty_directory_is_complete(tree: Tree) -> None:
    assert tree.files.scan() == Batch((), complete=True, problems=())


def test_a_missing_directory_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"--manifests .*/none: cannot read the directory .*create it"):
        ManifestFiles(tmp_path / "none").scan()


def test_changed_new_and_deleted_files_are_told_and_nothing_else(tree: Tree) -> None:
    tree.write("a.yaml", namespace("a") + namespace("b"))
    tree.write("c.yaml", namespace("c"))
    tree.files.scan()
    tree.write("a.yaml", namespace("a") + namespace("b", "y"))
    (tree.root / "c.yaml").unlink()
    tree.write("d.yaml", namespace("d"))
    assert told(tree.files.scan()) == {"b": True, "c": False, "d": True}


def test_an_object_may_move_to_another_file(tree: Tree) -> None:
    tree.write("a.yaml", namespace("a"))
    tree.files.scan()
    (tree.root / "a.yaml").rename(tree.root / "b.yaml")
    batch = tree.files.scan()
    assert batch is not None
    assert batch.changes[-1].obj is not None


def test_update_reads_only_what_it_is_told(tree: Tree) -> None:
    path = tree.write("a.yaml", namespace("a"))
    tree.files.scan()
    tree.write("a.yaml", namespace("a", "y"))
    tree.write("b.yaml", namespace("b"))
    assert told(tree.files.update([path])) == {"a": True}
    assert told(tree.files.update([str(tree.root / "sub")])) == {"b": True}, "anything else leads to a full look"


def test_a_broken_file_keeps_its_objects_until_it_is_mended(tree: Tree) -> None:
    path = tree.write("a.yaml", namespace("a") + namespace("b"))
    tree.files.scan()
    tree.write("a.yaml", namespace("a", "y") + "kind: [")
    batch = tree.files.update([path])
    assert told(batch) == {}
    (problem,) = problems(batch)
    assert "a.yaml" in problem
    assert "the file's changes" in problem
    tree.write("a.yaml", namespace("a", "z"))
    batch = tree.files.update([path])
    assert told(batch) == {"a": True, "b": False}
    assert problems(batch) == []


@pytest.mark.parametrize("text", [b"", b"\n  \n", b"\xff\xfe\xff", b'{"kind": "Namespace", "metad'])
def test_a_half_written_file_says_nothing(tree: Tree, text: bytes) -> None:
    path = tree.write("a.yaml", namespace("a"))
    tree.files.scan()
    tree.write("a.yaml", text)
    batch = tree.files.update([path])
    assert told(batch) == {}
    assert len(problems(batch)) == 1


def test_a_bad_object_keeps_its_last_good_form_and_the_others_go_on(tree: Tree) -> None:
    path = tree.write("a.yaml", service("web") + service("api") + service("old"))
    tree.files.scan()
    tree.write("a.yaml", service("web", '"no number"') + service("api", 81))
    batch = tree.files.update([path])
    assert told(batch) == {"api": True, "old": False}
    (problem,) = problems(batch)
    assert "Service default/web" in problem


def test_a_document_without_a_name_may_be_any_that_is_missing(tree: Tree) -> None:
    path = tree.write("a.yaml", namespace("a") + namespace("b"))
    tree.files.scan()
    tree.write("a.yaml", namespace("a", "y") + "kind: Namespace\nmetadata: {}\n")
    assert told(tree.files.update([path])) == {"a": True}


def test_an_object_in_two_files_is_told_with_both_names(tree: Tree) -> None:
    tree.write("1.yaml", namespace("a", "one"))
    tree.write("2.yaml", namespace("a", "two"))
    batch = tree.files.scan()
    assert batch is not None
    (change,) = batch.changes
    assert change.obj is not None
    assert "one" in str(change.obj)
    (problem,) = problems(batch)
    assert "1.yaml" in problem
    assert "2.yaml" in problem
    (tree.root / "1.yaml").unlink()
    batch = tree.files.scan()
    assert batch is not None
    assert "two" in str(batch.changes[-1].obj)
    assert problems(batch) == []


def test_a_link_to_nowhere_is_a_problem_and_keeps_what_was_there(tree: Tree) -> None:
    target = tree.write("target.txt", namespace("a"))
    (tree.root / "a.yaml").symlink_to(target)
    assert told(tree.files.scan()) == {"a": True}
    (tree.root / "target.txt").unlink()
    batch = tree.files.scan()
    assert told(batch) == {}
    assert "cannot read the file" in problems(batch)[0]


def test_links_in_a_circle_are_followed_once(tree: Tree) -> None:
    tree.write("sub/a.yaml", namespace("a"))
    (tree.root / "sub" / "again").symlink_to(tree.root)
    assert told(tree.files.scan()) == {"a": True}


def test_a_directory_that_goes_away_later_keeps_everything(tree: Tree) -> None:
    path = tree.write("a.yaml", namespace("a"))
    tree.files.scan()
    shutil.rmtree(tree.root)
    batch = tree.files.update([path])
    assert told(batch) == {}
    assert "stay in force" in problems(batch)[0]
    assert tree.files.scan() is None, "what is known is not told again"
    tree.root.mkdir()
    tree.write("b.yaml", namespace("b"))
    batch = tree.files.scan()
    assert told(batch) == {"a": False, "b": True}
    assert problems(batch) == []


def test_a_directory_may_be_called_like_a_manifest(tree: Tree) -> None:
    tree.write("a.yaml", namespace("a"))
    tree.files.scan()
    tree.write("x.yaml/b.yaml", namespace("b"))
    batch = tree.files.update([str(tree.root / "x.yaml")])
    assert told(batch) == {"b": True}
    assert problems(batch) == []


def test_names_that_are_not_utf8_are_told_readably(tree: Tree) -> None:
    for name in (b"1\xff.yaml", b"2\xff.yaml"):
        tree.write(os.fsdecode(name), namespace("a"))
    tree.write(os.fsdecode(b"3\xff.yaml"), b"")
    batch = tree.files.scan()
    assert told(batch) == {"a": True}
    text = "\n".join(problems(batch))
    for shown in (r"1\xff.yaml", r"2\xff.yaml", r"3\xff.yaml: the file is empty"):
        assert shown in text
    assert text.encode()


async def next_of(batches: AsyncIterator[Batch]) -> Batch:
    async with asyncio.timeout(20):
        return await anext(batches)


async def until_told(batches: AsyncIterator[Batch], wanted: dict[str, bool]) -> None:
    """Read batches until all of `wanted` was told."""
    state: dict[str, bool] = {}
    while not wanted.items() <= state.items():
        state |= told(await next_of(batches))


def test_the_watch_tells_files_written_renamed_and_deleted(tmp_path: Path) -> None:
    async def scenario() -> None:
        root = tmp_path / "manifests"
        root.mkdir()
        (root / "a.yaml").write_text(namespace("a"))
        async with aclosing(ManifestSource(root).batches()) as batches:
            assert told(await next_of(batches)) == {"a": True}
            (root / "a.yaml").write_text(namespace("a", "y"))
            await until_told(batches, {"a": True})
            (tmp_path / "b.tmp").write_text(namespace("b"))
            (tmp_path / "b.tmp").rename(root / "b.yaml")
            await until_told(batches, {"b": True})
            (root / "a.yaml").unlink()
            await until_told(batches, {"a": False})

    asyncio.run(scenario())


def test_the_watch_survives_names_that_are_not_utf8(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with aclosing(ManifestSource(tmp_path).batches()) as batches:
            assert told(await next_of(batches)) == {}
            for number in (1, 2):
                (tmp_path / os.fsdecode(b".\xff%d.swp" % number)).touch()
                (tmp_path / os.fsdecode(b"\xff%d.yaml" % number)).write_text(namespace(f"odd-{number}"))
                (tmp_path / f"{number}.yaml").write_text(namespace(f"plain-{number}"))
                await until_told(batches, {f"odd-{number}": True, f"plain-{number}": True})

    asyncio.run(scenario())


def test_the_watch_follows_new_directories(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with aclosing(ManifestSource(tmp_path).batches()) as batches:
            assert told(await next_of(batches)) == {}
            (tmp_path / "new" / "deep").mkdir(parents=True)
            (tmp_path / "new" / "deep" / "a.yaml").write_text(namespace("a"))
            await until_told(batches, {"a": True})
            (tmp_path / "new" / "deep" / "b.yaml").write_text(namespace("b"))
            await until_told(batches, {"b": True})

    asyncio.run(scenario())


def test_the_watch_follows_a_configmap_mount(tmp_path: Path) -> None:
    """As the kubelet's atomic writer does it: a hidden directory for each version, and links."""

    def publish(version: str, files: dict[str, str]) -> None:
        directory = tmp_path / f"..{version}"
        directory.mkdir()
        for name, text in files.items():
            (directory / name).write_text(text)
            if not (tmp_path / name).is_symlink():
                (tmp_path / name).symlink_to(f"..data/{name}")
        (tmp_path / "..data_tmp").symlink_to(directory.name)
        (tmp_path / "..data_tmp").rename(tmp_path / "..data")

    async def scenario() -> None:
        publish("v1", {"a.yaml": namespace("a"), "b.yaml": namespace("b")})
        async with aclosing(ManifestSource(tmp_path).batches()) as batches:
            assert told(await next_of(batches)) == {"a": True, "b": True}
            publish("v2", {"a.yaml": namespace("a", "y"), "b.yaml": namespace("b")})
            batch = await next_of(batches)
            assert told(batch) == {"a": True}
            assert problems(batch) == []

    asyncio.run(scenario())


def test_the_watch_survives_its_directory(tmp_path: Path) -> None:
    async def scenario() -> None:
        root = tmp_path / "manifests"
        root.mkdir()
        (root / "a.yaml").write_text(namespace("a"))
        async with aclosing(ManifestSource(root).batches()) as batches:
            await next_of(batches)
            root.rename(tmp_path / "away")
            batch = await next_of(batches)
            assert told(batch) == {}
            assert "stay in force" in problems(batch)[0]
            root.mkdir()
            (root / "b.yaml").write_text(namespace("b"))
            await until_told(batches, {"b": True})
            (root / "b.yaml").write_text(namespace("b", "y"))
            await until_told(batches, {"b": True})

    asyncio.run(scenario())


def test_a_missing_directory_ends_the_source(tmp_path: Path) -> None:
    async def scenario() -> None:
        await anext(ManifestSource(tmp_path / "none").batches())

    with pytest.raises(SourceError):
        asyncio.run(scenario())
