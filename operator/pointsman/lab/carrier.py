"""Whether links carry packets.

The end of a link that is set up before its peer is switched on later, by a worker of the kernel
(net/core/link_watch.c): until then what is sent there is dropped.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from pointsman.dataplane.channel import NETLINK_ROUTE, Channel, attributes
from pointsman.dataplane.rtnetlink import (
    IF_OPER_UP,
    IFINFOMSG,
    IFLA_IFNAME,
    IFLA_OPERSTATE,
    RTM_GETLINK,
)
from pointsman.lab.namespaces import LabError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from pointsman.lab.namespaces import Namespace

_PATIENCE: Final = 30.0
_PAUSE: Final = 0.001


def wait_until_up(namespace: Namespace, devices: Collection[str]) -> None:
    """Wait until packets get through.

    Args:
        namespace: where the devices are.
        devices: that were set up, at both ends.

    Raises:
        LabError: one is down all the time.
        OSError: there is no such namespace.
    """
    with namespace.entered():
        channel = Channel(NETLINK_ROUTE)
    try:
        end = time.monotonic() + _PATIENCE
        while down := set(devices) - set(_links_up(channel)):
            if time.monotonic() >= end:
                raise LabError(f"{', '.join(sorted(down))} in {namespace.name}: no packet gets through")
            time.sleep(_PAUSE)
    finally:
        channel.close()


def _links_up(channel: Channel) -> Iterator[str]:
    for message in channel.dump(RTM_GETLINK, IFINFOMSG.pack(0, 0, 0, 0, 0, 0)):
        data = message.data
        spans = attributes(data, message.start + IFINFOMSG.size, message.end)
        if data[spans[IFLA_OPERSTATE][0]] == IF_OPER_UP:  # set behind what switches the link on
            yield data[slice(*spans[IFLA_IFNAME])].rstrip(b"\0").decode()
