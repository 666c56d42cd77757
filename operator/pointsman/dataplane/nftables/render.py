"""The script: what the agent brings into the kernel, as text in nft's language."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from pointsman.dataplane.nftables import skeleton, structure
from pointsman.dataplane.nftables.expressions import words
from pointsman.dataplane.nftables.schema import SCHEMA
from pointsman.dataplane.nftables.table import Table
from pointsman.model.plan import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pointsman.dataplane.nftables.layout import Schema
    from pointsman.dataplane.nftables.wire import Chain
    from pointsman.model.plan import Family, Plan


class TextDraft:
    """A transaction as text; it only adds, as it begins with an empty table."""

    def __init__(self, schema: Schema, family: Family) -> None:
        self.elements: dict[str, list[str]] = {name: [] for name in schema.layouts[family]}
        self.chains: dict[str, list[str]] = {}
        self._layouts = schema.layouts[family]

    def add(self, name: str, key: bytes, value: bytes = b"") -> None:
        """Write an element."""
        layout = self._layouts[name]
        if layout.data is None:
            value = words(value).encode()
        self.elements[name].append(layout.text(key, value))

    def remove(self, name: str, key: bytes, value: bytes = b"") -> None:
        """Never happens in an empty table."""
        raise NotImplementedError(f"{name} {key!r} {value!r}")

    def replace_networks(self, name: str, networks: Sequence[tuple[bytes, bytes]]) -> None:
        """Write networks as ranges."""
        for first, last in networks:
            af = socket.AF_INET if len(first) == 4 else socket.AF_INET6  # noqa: PLR2004 - octets of an IPv4 address
            low, high = socket.inet_ntop(af, first), socket.inet_ntop(af, last)
            self.elements[name].append(low if low == high else f"{low}-{high}")

    def add_chain(self, chain: Chain, *, present: bool = False) -> None:
        """Write a chain."""
        del present
        self.chains[chain.chain] = chain.text()

    def remove_chain(self, chain: str) -> None:
        """Never happens in an empty table."""
        raise NotImplementedError(chain)


def render(plan: Plan) -> str:
    """Write a plan as a script for ``nft -f``: it puts its tables in place of those that are there.

    The agent loads the same rules and elements, but only what differs from what the kernel holds.
    """
    return "\n".join(_family_text(plan, family) for family in FAMILIES)


def _family_text(plan: Plan, family: Family) -> str:
    draft = TextDraft(SCHEMA, family)
    answers = {frontend: plan.answers[frontend] for frontend in sorted(plan.answers) if frontend.family == family}
    Table(family).adoption(answers, plan.settings, SCHEMA.empty(family), draft)
    return table_script(SCHEMA, family, draft, drop_invalid=plan.settings.drop_invalid)


def table_script(schema: Schema, family: Family, draft: TextDraft, *, drop_invalid: bool) -> str:
    """Write a script for ``nft -f`` that puts a table in place of the one that is there.

    Args:
        schema: the table's.
        family: address family.
        draft: its elements and own chains.
        drop_invalid: as in `NodeSettings`.
    """
    # An agent that finds this table replaces its rules and keeps its elements.
    draft.add("structure", structure.SETS_KEY, structure.sets_checksum(schema, family))
    where = f"{skeleton.ip_of(family)} {schema.table}"
    lines = [f"table {where}", f"delete table {where}", "", f"table {where} {{"]
    for declaration, elements in zip(skeleton.declarations(schema, family), draft.elements.values(), strict=True):
        lines += _set_lines(declaration, elements)
    for name, rules in schema.chains(family, drop_invalid=drop_invalid).items():
        lines += _chain_lines(name, rules)
    for name, rules in sorted(draft.chains.items()):
        lines += _chain_lines(name, rules)
    return "\n".join([*lines, "}", ""])


def _set_lines(declaration: str, elements: list[str]) -> list[str]:
    head, _, rest = declaration.partition(" { ")
    lines = [f"\t{head} {{", *(f"\t\t{part}" for part in rest.removesuffix("; }").split("; "))]
    if elements:
        lines += ["\t\telements = {", *(f"\t\t\t{element}," for element in elements), "\t\t}"]
    return [*lines, "\t}", ""]


def _chain_lines(name: str, rules: list[str]) -> list[str]:
    return [f"\tchain {name} {{", *(f"\t\t{rule}" for rule in rules), "\t}", ""]
