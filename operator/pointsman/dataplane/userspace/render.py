"""A plan as a script: the rules that lead to the proxy, as text in nft's language."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pointsman.dataplane.nftables.render import TextDraft, table_script
from pointsman.dataplane.userspace.dataplane import wishes_of
from pointsman.dataplane.userspace.proxy import Target
from pointsman.dataplane.userspace.rules import PROXY_ADDRESSES, SCHEMA
from pointsman.dataplane.userspace.table import Entry, Table
from pointsman.model.plan import FAMILIES

if TYPE_CHECKING:
    from pointsman.model.plan import Family, Plan

_FIRST_PORT: Final = 40001
_LAST_PORT: Final = 65535
_HEAD: Final = (
    "# Ports at {addresses} are placeholders, one for each frontend from {first} on: the agent opens ports that are",
    "# free, and only its proxy answers there. Loaded without it, these rules refuse all connections.",
    "",
)


def render(plan: Plan) -> str:
    """Write a plan as a script for ``nft -f``: it puts its tables in place of those that are there.

    The proxy itself is a part of the agent, so that the script alone serves nothing.
    """
    head = "\n".join(_HEAD).format(addresses=" and ".join(PROXY_ADDRESSES.values()), first=_FIRST_PORT)
    return "\n".join([head, *(_family_text(plan, family) for family in FAMILIES)])


def _family_text(plan: Plan, family: Family) -> str:
    answers = {frontend: plan.answers[frontend] for frontend in sorted(plan.answers) if frontend.family == family}
    targets = [target for frontend, answer in answers.items() for target, _ in wishes_of(frontend, answer)]
    ports = {target: min(_FIRST_PORT + number, _LAST_PORT) for number, target in enumerate(targets)}
    entries = {
        frontend: Entry(answer, ports.get(Target(frontend), 0), ports.get(Target(frontend, inside=True), 0))
        for frontend, answer in answers.items()
    }
    draft = TextDraft(SCHEMA, family)
    Table(family).adoption(entries, plan.settings, SCHEMA.empty(family), draft)
    return table_script(SCHEMA, family, draft, drop_invalid=True)
