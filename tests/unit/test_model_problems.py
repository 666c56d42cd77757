from __future__ import annotations

from pointsman.model.problems import Problem


def test_control_characters_of_an_object_are_escaped() -> None:
    problem = Problem("a\nb.yaml", "Service x/\x1b[31my", "spec.typ\u2028e", "“ü” is wrong\r", "write 3")
    assert str(problem) == (
        "a\\nb.yaml: Service x/\\x1b[31my: spec.typ\\u2028e: “ü” is wrong\\r; write 3 (left out: the object)"
    )
