"""A node in the mode `iptables`, in either variant, for tests that look into the kernel while real packets pass."""

from __future__ import annotations

import re
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec
import pytest

from pointsman.dataplane.iptables import IptablesDataplane
from support.dataplanes import open_iptables
from support.ipvs import Clock
from support.proxied import OnGround, give_addresses

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kernel.conftest import Ground
    from pointsman.dataplane.iptables.variant import Variant
    from pointsman.dataplane.protocol import Written
    from pointsman.lab.network import Host
    from pointsman.model.plan import Family

VARIANTS = [
    pytest.param("nft", marks=pytest.mark.needs("iptables (nft)")),
    pytest.param("legacy", marks=pytest.mark.needs("iptables (legacy)")),
]
COMMANDS = {4: "iptables", 6: "ip6tables"}


class Chained(OnGround[IptablesDataplane]):
    """The ground with iptables of one variant on its node.

    Attributes:
        variant: the variant.
    """

    def __init__(self, ground: Ground, variant: Variant, clock: Callable[[], float]) -> None:
        super().__init__(ground, lambda: open_iptables(ground.node, variant, clock=clock))
        self.variant = variant

    def iptables(self, *words: str, family: Family = 4, variant: Variant | None = None) -> str:
        """Run iptables on the node, as another program would."""
        return run(self.ground.node, variant or self.variant, COMMANDS[family], *words)

    def rules(self, family: Family = 4, variant: Variant | None = None) -> list[str]:
        """Return what iptables-save prints, without comments, counters and empty tables."""
        listing = run(self.ground.node, variant or self.variant, f"{COMMANDS[family]}-save")
        return [re.sub(r" \[\d+:\d+\]$", "", line) for line in listing.splitlines() if line[0] in "*:-"]


@contextmanager
def chained(ground: Ground, variant: Variant, clock: Callable[[], float] = time.monotonic) -> Iterator[Chained]:
    """Put a dataplane on the ground's node, with an empty plan, and give the client many addresses."""
    give_addresses(ground)
    made = Chained(ground, variant, clock)
    try:
        made.adopt()
        yield made
    finally:
        made.dataplane.close()


def changes(written: Written) -> Written:
    """Return what a sync changed, without how many rules there are now."""
    return msgspec.structs.replace(written, rules={})


def as_kubelet_does(node: Host, variant: Variant) -> None:
    """Make the chains in the table mangle that tell which iptables the node uses."""
    for command in COMMANDS.values():
        run(node, variant, command, "-t", "mangle", "-N", "KUBE-KUBELET-CANARY")


def run(node: Host, variant: Variant, command: str, *words: str, stdin: str = "") -> str:
    """Run a program of a variant on a node."""
    return node.namespace.run(f"xtables-{variant}-multi", command, *words, stdin=stdin)


__all__ = ["Chained", "Clock", "as_kubelet_does", "chained", "changes", "run"]
