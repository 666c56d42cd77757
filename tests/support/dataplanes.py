"""Dataplanes in a node's namespace, for tests that call them from anywhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, cast

from pointsman.dataplane.iptables import IptablesDataplane
from pointsman.dataplane.iptables.tools import Tools
from pointsman.dataplane.ipvs import IpvsDataplane
from pointsman.dataplane.nftables import NftablesDataplane
from pointsman.dataplane.userspace import UserspaceDataplane

if TYPE_CHECKING:
    from collections.abc import Callable

    from pointsman.api.names import Mode
    from pointsman.dataplane.iptables.variant import Variant
    from pointsman.dataplane.protocol import Dataplane
    from pointsman.lab.network import Host


def open_dataplane(node: Host, mode: Mode, *, clock: Callable[[], float] = time.monotonic) -> Dataplane:
    """Open a dataplane in a node's namespace; it can be used from anywhere."""
    with node.namespace.entered():
        if mode == "nftables":
            return NftablesDataplane()
        if mode == "iptables":
            return cast("Dataplane", _Entered(IptablesDataplane(clock=clock), node))
        if mode == "userspace":
            return cast("Dataplane", _Entered(UserspaceDataplane(clock), node))
        return cast("Dataplane", _Entered(IpvsDataplane(clock=clock), node))


def open_iptables(
    node: Host, variant: Variant, *, clock: Callable[[], float] = time.monotonic
) -> IptablesDataplane:  # fmt: skip
    """Open a dataplane of one variant of iptables, whatever the node uses."""
    with node.namespace.entered():
        return cast("IptablesDataplane", _Entered(IptablesDataplane(clock, lambda: Tools(variant)), node))


class _Entered:
    """A dataplane of which every call is made in a node's namespace: some of the kernel's files are the caller's."""

    def __init__(self, dataplane: Dataplane, node: Host) -> None:
        self._dataplane = dataplane
        self._node = node

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the dataplane has
        found = getattr(self._dataplane, name)
        if not callable(found):
            return found

        def call(*arguments: object, **named: object) -> object:
            with self._node.namespace.entered():
                return found(*arguments, **named)

        return call
