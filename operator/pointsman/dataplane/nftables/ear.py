"""Hearing what other programs change in nf_tables, and not what this one changes itself."""

from __future__ import annotations

import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import msgspec

from pointsman.dataplane.netlink import NftMonitor, NftSocket, attributes
from pointsman.dataplane.nftables.wire import GETGEN
from pointsman.dataplane.protocol import DataplaneError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


_Socket = TypeVar("_Socket")


def open_wire() -> NftSocket:
    """Open a way to nf_tables.

    Raises:
        DataplaneError: there is none.
    """
    return _opened(NftSocket)


class Own(msgspec.Struct):
    """What happens while nobody listens.

    Attributes:
        commits: the most transactions that are ours.
    """

    commits: int


class Ear:
    """Tells of changes by others in the network namespace of the thread that made it.

    Args:
        listens_for: asks the monitor whether it heard of something that is ours.

    Attributes:
        wire: for reading.
    """

    def __init__(self, listens_for: Callable[[NftMonitor], bool]) -> None:
        """Open the sockets.

        Raises:
            DataplaneError: the kernel has no nfnetlink.
        """
        self._listens_for = listens_for
        self.wire = open_wire()
        self._monitor = _opened(NftMonitor)
        self._missed = False

    def listen(self) -> None:
        """Hear of changes from now on, and forget what was heard."""
        self._monitor.listen()
        self.disturbed()

    def heard(self) -> bool:
        """Tell whether another program changed what is ours since the last call, as far as the monitor knows."""
        return self._listens_for(self._monitor)

    def disturbed(self) -> bool:
        """Tell whether another program changed what is ours since the last call."""
        heard = self.heard() or self._missed
        self._missed = False
        return heard

    def will_be_disturbed(self) -> bool:
        """Tell what `disturbed` will tell: whether what was read until now may be another program's work."""
        self.wire.settle()
        self._missed = self.heard() or self._missed
        return self._missed

    @contextmanager
    def unheard(self, commits: int = 1) -> Iterator[Own]:
        """Take what happens meanwhile for our own doing, without missing anybody else's.

        Args:
            commits: the most transactions that we make.
        """
        own = Own(commits)
        before = self.generation()
        # What counts already is told before nobody listens.
        self.wire.settle()
        self._monitor.pause()
        try:
            yield own
        finally:
            after = self.generation()
            self._monitor.listen()
            # Each commit counts one; anything beyond ours happened while nobody listened.
            if after - before > own.commits or self.generation() != after:
                self._missed = True

    def generation(self) -> int:
        """Ask how many transactions nf_tables has seen here.

        Raises:
            OSError: the kernel has no nf_tables, or this process may not use them.
        """
        fields = dict(attributes(self.wire.get(GETGEN, 0)))
        return int(struct.unpack(">I", fields[1])[0])

    def close(self) -> None:
        """Close the sockets."""
        self.wire.close()
        self._monitor.close()


def _opened(kind: Callable[[], _Socket]) -> _Socket:
    try:
        return kind()
    except OSError as error:
        raise DataplaneError(f"no netlink socket for nf_tables: {error}; the kernel needs nfnetlink") from error
