"""The input of ``iptables-restore``, cut into sections that it takes quickly.

``iptables-nft-restore`` keeps the chains of a section in a sorted list, and walks it for each line: 15,000 chains, as
of 5,000 Services with two endpoints each, take more than 9 seconds of CPU time in one section, and 1.4 in sections of
200. (They stay in the order in which they are given: ``iptables-nft-save`` sorts the kernel's chains by a quicksort
that takes ten times as long when they are sorted already.)

A section is a transaction, so what many chains change in is not all or nothing. It is in an order in which every packet
finds whole chains: those of endpoints are made and filled, then those that lead there, step by step; then the last step
is taken for all Services at once; then what is not used any more is deleted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from collections.abc import Set as AbstractSet

SIZE: Final = 200
"""Chains in a section."""
_COMMIT: Final = "COMMIT"
STEPS: Final = ("KUBE-SEP-", "KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-FW-")
"""Chains of Services' ports: each leads to one that stands before it, or out of here."""

_Line = tuple[int, str]
"""A line with its number in the text, or 0."""


class Input(msgspec.Struct, frozen=True, gc=False):
    """What ``iptables-restore`` is given.

    Attributes:
        text: lines.
        origins: for each line its number in the text that was cut, from 1; 0 for lines that were not in it.
        commits: how many transactions it is.
    """

    text: str
    origins: Sequence[int]
    commits: int


def whole(text: str) -> Input:
    """Leave a text as it is."""
    lines = text.splitlines()
    return Input(text, range(1, len(lines) + 1), lines.count(_COMMIT))


def cut(text: str, held: Mapping[str, AbstractSet[str]], size: int = SIZE) -> Input:
    """Cut a text into sections, where it has many chains.

    Args:
        text: sections of lines from ``*TABLE`` to ``COMMIT``, in which a chain that is filled or deleted is declared.
        held: by table, the chains that are there.
        size: how many chains a section has at most.
    """
    numbered = list(enumerate(text.splitlines(), 1))
    found: list[_Line] = []
    for section in _sections(numbered):
        found += _cut_section(section, held.get(section[0][1][1:], frozenset()), size)
    if len(found) == len(numbered):
        return whole(text)
    lines = [line for _, line in found]
    return Input("\n".join(lines) + "\n", [number for number, _ in found], lines.count(_COMMIT))


def keep(text: str, chains: Mapping[str, Collection[str]]) -> str:
    """Empty chains that a text deletes, when rules of others lead there; the lines stay where they are.

    Args:
        text: as for `cut`.
        chains: by table, the chains that cannot be deleted.
    """
    if not any(chains.values()):
        return text
    found, table = list[str](), ""
    for line in text.splitlines():
        table = line[1:] if line[:1] == "*" else table
        is_kept = line.startswith("-X ") and line[3:] in chains.get(table, ())
        found.append(f"-F {line[3:]}" if is_kept else line)
    return "\n".join([*found, ""]) if found else ""


def declare(text: str, table: str, chain: str) -> tuple[str, int]:
    """Have a text make an empty chain, too, in the transaction that the table has there already, if it has one.

    Returns:
        The text, and the number of the line that is new in it; 0 for one that stands behind all others.
    """
    head = f"*{table}\n"
    start = 0 if text.startswith(head) else text.find(f"\n{head}") + 1
    if not start and not text.startswith(head):
        return f"{text}{head}:{chain} - [0:0]\n{_COMMIT}\n", 0
    behind = start + len(head)
    return f"{text[:behind]}:{chain} - [0:0]\n{text[behind:]}", text.count("\n", 0, behind) + 1


def without_jumps(text: str) -> str:
    """Leave out of a text what changes the kernel's own chains."""
    lines = text.splitlines()
    declared = {line[1:].split(" ", 1)[0] for line in lines if line[:1] == ":"}
    kept = [line for line in lines if line[:1] != "-" or line.split(" ", 2)[1] in declared]
    return "\n".join([*kept, ""])


def _sections(numbered: list[_Line]) -> Iterator[list[_Line]]:
    section: list[_Line] = []
    for entry in numbered:
        section.append(entry)
        if entry[1] == _COMMIT:
            yield section
            section = []


def _cut_section(section: list[_Line], held: AbstractSet[str], size: int) -> list[_Line]:
    heads = {line[1:].split(" ", 1)[0]: (number, line) for number, line in section if line[:1] == ":"}
    if len(heads) <= size:
        return section
    deletions = {line[3:]: (number, line) for number, line in section if line.startswith("-X ")}
    filled = {name: [head] for name, head in heads.items() if name.startswith(STEPS) and name not in deletions}
    elsewhere = filled.keys() | deletions.keys()
    last: list[_Line] = []
    for number, line in section[1:-1]:
        if line.startswith("-X "):
            continue
        name = line.split(" ", 2)[1] if line.startswith("-A ") else ""
        if name in filled:
            filled[name].append((number, line))
        elif line[:1] != ":" or line[1:].split(" ", 1)[0] not in elsewhere:
            last.append((number, line))
    pieces = [
        *_batches([[head] for name, head in heads.items() if name not in held and name not in filled], size),
        *(piece for step in STEPS for piece in _batches([ls for n, ls in filled.items() if n.startswith(step)], size)),
        last,
        *_batches([[heads[name]] for name in deletions if name in heads], size),
        *_batches([[line] for line in deletions.values()], size),
    ]
    table = section[0][1]
    return [line for piece in pieces if piece for line in ((0, table), *piece, (0, _COMMIT))]


def _batches(chains: list[list[_Line]], size: int) -> Iterator[list[_Line]]:
    for start in range(0, len(chains), size):
        yield [line for lines in chains[start : start + size] for line in lines]
