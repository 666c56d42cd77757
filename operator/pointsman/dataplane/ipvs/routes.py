"""The routes that make the addresses of frontends the node's own."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pointsman.dataplane.local_routes import LocalRoutes
from pointsman.dataplane.node_addresses import node_addresses
from pointsman.dataplane.protocol import DataplaneError
from pointsman.model.address import family_of

if TYPE_CHECKING:
    from collections.abc import Collection
    from collections.abc import Set as AbstractSet

    from pointsman.model.plan import Family


class Routes:
    """Everything happens in the network namespace of the thread that makes it and calls it; it blocks."""

    def __init__(self) -> None:
        """Open the socket.

        Raises:
            OSError: the kernel has no rtnetlink.
        """
        self._local = LocalRoutes()

    def read(self, family: Family) -> set[str]:
        """Read the networks that our routes make local.

        Raises:
            OSError: they can't be read.
        """
        return self._local.read(family)

    def change(self, family: Family, add: Collection[str], remove: Collection[str]) -> None:
        """Bring local routes in order.

        Raises:
            DataplaneError: the kernel refused; the message names the network.
        """
        if not add and not remove:
            return
        try:
            self._local.change(family, add, remove, _sources().get(family))
        except OSError as error:
            if error.errno in {errno.EAFNOSUPPORT, errno.EOPNOTSUPP}:
                return  # the node has no such family: nobody connects there
            raise DataplaneError(str(error)) from error

    def adopt(self, family: Family, wanted: AbstractSet[str]) -> None:
        """Make local what has to be; a route with another source than it shall have is made anew.

        Raises:
            DataplaneError: the kernel refused; the message names the network.
            OSError: the routes can't be read.
        """
        source = _sources().get(family, "")
        found = self._local.sources(family)
        wrong = {network for network in wanted & found.keys() if found[network] != source}
        self.change(family, wrong | (wanted - found.keys()), wrong)
        self.change(family, (), found.keys() - wanted)

    def has(self, family: Family, wanted: AbstractSet[str]) -> bool:
        """Tell whether our routes are those that they have to be.

        Raises:
            OSError: they can't be read.
        """
        source = _sources().get(family, "")
        return self._local.sources(family) == dict.fromkeys(wanted, source)

    def close(self) -> None:
        """Close the socket."""
        self._local.close()


def _sources() -> dict[Family, str]:
    """Return the address of each family from which the node's own connections to our addresses come."""
    return {family_of(address): address for address in node_addresses()}
