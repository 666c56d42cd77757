"""The input of ``iptables-restore``, cut into sections that it takes quickly.

``iptables-nft-restore`` keeps the chains of a section in a sorted list, and walks it for each line: 15,000 chains at
once take 9.3 seconds, of 5,000 Services with two endpoints each; in sections of 500 chains they take 1.6.

A section is a transaction. What may be written beforehand is what nobody comes to yet: chains that are not there so
far, all of them empty at first, then with their rules. The last section of a table is the one that counts, and it is
whole: it has every chain that was there before, every rule in chains of the kernel's own, and every deletion.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from collections.abc import Set as AbstractSet

SIZE: Final = 500
"""Chains in a section."""
_COMMIT: Final = "COMMIT"


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
    """Cut a text into sections, when many of its chains are new.

    Args:
        text: sections of lines from ``*TABLE`` to ``COMMIT``, each table once.
        held: by table, the chains that are there.
        size: how many new chains a section has.
    """
    numbered = list(enumerate(text.splitlines(), 1))
    found: list[tuple[int, str]] = []
    for section in _sections(numbered):
        table = section[0][1][1:]
        found += _cut_section(section, held.get(table, frozenset()), size)
    if len(found) == len(numbered):
        return whole(text)
    lines = [line for _, line in found]
    return Input("\n".join(lines) + "\n", [number for number, _ in found], lines.count(_COMMIT))


def _sections(numbered: list[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    section: list[tuple[int, str]] = []
    for entry in numbered:
        section.append(entry)
        if entry[1] == _COMMIT:
            yield section
            section = []


def _cut_section(section: list[tuple[int, str]], held: AbstractSet[str], size: int) -> list[tuple[int, str]]:
    new: dict[str, list[tuple[int, str]]] = {}
    last: list[tuple[int, str]] = []
    for number, line in section:
        name = line[1:].split(" ", 1)[0] if line.startswith(":") else _chain_filled(line)
        if line.startswith(":") and name not in held:
            new[name] = [(number, line)]
        elif name in new:
            new[name].append((number, line))
        else:
            last.append((number, line))
    if len(new) <= size:
        return section
    # In the order in which a sorted list is filled from its front.
    names = sorted(new, reverse=True)
    found: list[tuple[int, str]] = []
    for rules in (False, True):
        for start in range(0, len(names), size):
            chains = [new[name] for name in names[start : start + size]]
            found.append((0, section[0][1]))
            found += [line for lines in chains for line in (lines if rules else lines[:1])]
            found.append((0, _COMMIT))
    return found + last if len(last) > 2 else found  # noqa: PLR2004 - the section's first and last line


def _chain_filled(line: str) -> str:
    return line.split(" ", 2)[1] if line.startswith("-A ") else ""
