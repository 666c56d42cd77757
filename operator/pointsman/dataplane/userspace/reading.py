"""Where the kernel's elements lead frontends to, read back."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pointsman.dataplane.nftables.layout import PLACES, endpoint_of, frontend_in
from pointsman.dataplane.userspace.proxy import Target
from pointsman.dataplane.userspace.rules import PROXY_ADDRESSES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pointsman.dataplane.nftables.wire import Elements
    from pointsman.model.plan import Family


class Led(NamedTuple):
    """What becomes of connections to one target: they are led to an address and a port, or, with None, ended."""

    target: Target
    to: tuple[str, int] | None


def frontends_held(family: Family, held: Mapping[str, Elements]) -> Iterator[Led]:
    """Read all frontends.

    Args:
        family: address family.
        held: elements by set.
    """
    for place in PLACES:
        for view in ("", "-inside"):
            for kind in ("ports", "refused", "dropped"):
                for key, value in held[f"{place}{kind}{view}"].items():
                    if frontend := frontend_in(family, place, key):
                        to = endpoint_of(family, value) if kind == "ports" else None
                        yield Led(Target(frontend, inside=bool(view)), to)


def ports_held(family: Family, held: Mapping[str, Elements]) -> dict[Target, int]:
    """Return the ports of a proxy, of this process or another, that elements lead to."""
    proxy = PROXY_ADDRESSES[family]
    return {led.target: led.to[1] for led in frontends_held(family, held) if led.to and led.to[0] == proxy}
