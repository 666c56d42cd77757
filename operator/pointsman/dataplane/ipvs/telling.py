"""What a sync says of itself: how much it wrote, and what the kernel refused, for people."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from pointsman.dataplane.ipvs.servers import ADD
from pointsman.dataplane.protocol import Written

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pointsman.dataplane.ipvs.servers import Command, Servers
    from pointsman.dataplane.netlink import Refusal
    from pointsman.dataplane.nftables.wire import WireDraft

TAKEN: Final = (
    "the virtual server {} belongs to another program; remove it (`kube-proxy --cleanup`, or `ipvsadm -D`), or name "
    "its network in spec.ipvs.excludeCIDRs, to leave it to that program"
)
NO_MARK: Final = (
    "no firewall mark is left for virtual server {}: clients inside the cluster reach only what those outside do; have "
    "fewer Services with externalTrafficPolicy: Local"
)


class Count:
    """What a sync adds and removes.

    Args:
        servers: the virtual servers; what they added and removed until now does not count.
    """

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._before = servers.added, servers.removed
        self._added = self._removed = 0

    def add(self, draft: WireDraft) -> None:
        """Count elements of sets that the kernel took."""
        self._added += draft.added
        self._removed += draft.removed

    def written(self, refused: Mapping[str, str]) -> Written:
        """Return the sum."""
        added, removed = self._before
        return Written(
            self._added + self._servers.added - added, self._removed + self._servers.removed - removed, refused
        )


def told(command: Command, refusal: Refusal) -> str:
    """Say what the kernel refused, with the remedy where there is one."""
    if command.verb == ADD and command.real is None:
        if refusal.error == errno.EEXIST:
            return TAKEN.format(command.key)
        if refusal.error == errno.ENOENT:
            return f"the kernel lacks the scheduler of virtual server {command.key}; choose another one"
    return f"IPVS refused to {command}: {refusal}"
