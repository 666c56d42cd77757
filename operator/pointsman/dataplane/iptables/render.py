"""The mode `iptables` as text: what the agent brings into the kernel, for reading and for ``iptables-restore``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pointsman.dataplane.iptables.ruleset import Ruleset
from pointsman.model.plan import IPV4, IPV6

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pointsman.model.plan import Family, Plan

_TOOLS: Final[Mapping[Family, str]] = {IPV4: "iptables-restore", IPV6: "ip6tables-restore"}


def render(plan: Plan) -> str:
    """Write a plan as a shell script that loads it by ``iptables-restore`` and ``ip6tables-restore``.

    It is for a kernel without these chains: the agent writes only what differs from what the kernel holds, in the
    variant (nft or legacy) that the node uses.
    """
    lines = ["#!/bin/sh", "set -e", ""]
    if plan.settings.iptables.localhost_node_ports:
        lines += ["sysctl -w net.ipv4.conf.all.route_localnet=1", ""]
    for family, tool in _TOOLS.items():
        answers = {frontend: plan.answers[frontend] for frontend in sorted(plan.answers) if frontend.family == family}
        change = Ruleset(family).adoption(answers, plan.settings, {})
        lines += [f"{tool} --noflush -w 5 <<'END'", f"{change.text}END", ""]
    return "\n".join(lines)
