"""The text of ``nft list ruleset``, in a form that two ways of loading the same thing have in common."""

from __future__ import annotations

import re
from typing import Final

import msgspec

_COUNTER: Final = re.compile(r" counter packets \d+ bytes \d+")
_FILLED: Final = frozenset({"affinity", "structure"})
"""Maps that packets fill, and that only the agent fills."""

_OWN_CLASS: Final = re.compile(r"4[0-9a-f]{3}:[0-9a-f]+$")
"""The number of a class that serves one frontend: given out in the order of arrival."""


class Block(msgspec.Struct, frozen=True):
    """A set, a map or a chain.

    Attributes:
        body: its lines but the elements.
        elements: sorted, without counters.
    """

    body: tuple[str, ...]
    elements: tuple[str, ...] = ()


Ruleset = dict[tuple[str, str], Block]
"""Blocks by table (``ip pointsman``) and name (``chain dispatch``)."""


def read_ruleset(listing: str, *, filled: bool = False) -> Ruleset:
    """Read what ``nft list`` printed.

    Args:
        listing: its output.
        filled: keep the elements of maps that a script does not bring.
    """
    found: Ruleset = {}
    for table, text in re.findall(r"^table (.*?) \{\n(.*?)^\}", listing, re.MULTILINE | re.DOTALL):
        for name, body in re.findall(r"^\t((?:set|map|chain) \S+) \{\n(.*?)^\t\}", text, re.MULTILINE | re.DOTALL):
            block = _block(body)
            empty = not filled and name.split()[1] in _FILLED
            found[table, name] = Block(block.body) if empty else block
    return {key: _named(key[0], block, found) for key, block in found.items()}


def _block(body: str) -> Block:
    elements: list[str] = []
    if match := re.search(r"^\t*elements = \{(.*?)\}\n", body, re.MULTILINE | re.DOTALL):
        elements = [_COUNTER.sub("", " ".join(element.split())) for element in match[1].split(",")]
        body = body[: match.start()] + body[match.end() :]
    return Block(tuple(line.strip() for line in body.splitlines() if line.strip()), tuple(sorted(elements)))


def _named(table: str, block: Block, ruleset: Ruleset) -> Block:
    """Write the chain in place of the number of a class that serves one frontend."""
    chains = {
        key: chain
        for (where, name), other in ruleset.items()
        if where == table and name.endswith("classes")
        for key, _, chain in (element.partition(" : ") for element in other.elements)
        if _OWN_CLASS.match(key)
    }
    words = (element.split(" ") for element in block.elements)
    return Block(block.body, tuple(sorted(" ".join(chains.get(word, word) for word in line) for line in words)))
