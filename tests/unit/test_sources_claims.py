from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from pointsman.model.objects import Namespace, ObjectKey
from pointsman.sources.claims import Claims
from pointsman.sources.protocol import Change

if TYPE_CHECKING:
    from pointsman.model.parse import Object

A = ObjectKey("Namespace", "", "a")
B = ObjectKey("Namespace", "", "b")


def say(name: str, label: str) -> Namespace:
    return Namespace(name, (("from", label),))


def test_a_file_tells_its_objects_once() -> None:
    claims = Claims()
    assert claims.replace("1.yaml", {A: say("a", "1")}) == [Change(A, say("a", "1"))]
    assert claims.replace("1.yaml", {A: say("a", "1")}) == []
    assert claims.replace("1.yaml", {}) == [Change(A, None)]
    assert claims.of("1.yaml") == {}


def test_the_first_file_by_name_wins_in_whichever_order_they_come() -> None:
    claims = Claims()
    claims.replace("2.yaml", {A: say("a", "2")})
    assert claims.replace("1.yaml", {A: say("a", "1")}) == [Change(A, say("a", "1"))]
    assert claims.replace("3.yaml", {A: say("a", "3")}) == []
    (problem,) = claims.conflicts()
    assert problem.object == "Namespace a"
    assert problem.source == "1.yaml"
    assert "2.yaml, 3.yaml" in str(problem)


def test_another_file_takes_over_when_the_winner_goes() -> None:
    claims = Claims()
    claims.replace("1.yaml", {A: say("a", "1"), B: say("b", "1")})
    claims.replace("2.yaml", {A: say("a", "2")})
    assert set(claims.replace("1.yaml", {})) == {Change(A, say("a", "2")), Change(B, None)}
    assert claims.conflicts() == []


FILES = st.sampled_from(["1", "2", "3"])
KEYS = st.sampled_from([A, B])


@given(st.lists(st.tuples(FILES, st.frozensets(KEYS), st.sampled_from(["x", "y"]))))
def test_following_the_changes_gives_what_the_files_say(steps: list[tuple[str, frozenset[ObjectKey], str]]) -> None:
    claims = Claims()
    seen: dict[ObjectKey, Object | None] = {}
    files: dict[str, dict[ObjectKey, Namespace]] = {}
    for file, keys, label in steps:
        files[file] = {key: say(key.name, file + label) for key in keys}
        for change in claims.replace(file, files[file]):
            assert seen.get(change.key) != change.obj, "no change is told that is none"
            seen[change.key] = change.obj
    expected: dict[ObjectKey, Namespace] = {}
    for file in sorted(files, reverse=True):
        expected |= files[file]
    assert {key: obj for key, obj in seen.items() if obj is not None} == expected
