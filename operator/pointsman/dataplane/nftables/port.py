"""The way to nf_tables in one network namespace: netlink, libnftables, and an ear for what others change."""

from __future__ import annotations

import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pointsman.dataplane.netlink import NftMonitor, NftSocket, attributes
from pointsman.dataplane.nftables.structure import Libnftables
from pointsman.dataplane.nftables.wire import GETGEN
from pointsman.dataplane.protocol import DataplaneError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pointsman.dataplane.netlink import Message, Refusal


class NftPort:
    """Everything that changes a table goes through here, so that the monitor tells of others' changes alone.

    Everything happens in the network namespace of the thread that made it.

    Args:
        table: the name of our tables.

    Attributes:
        wire: for reading.
    """

    def __init__(self, table: str) -> None:
        """Open libnftables and netlink sockets.

        Raises:
            DataplaneError: the library or the kernel's part is missing, or the process may not use it.
        """
        self._table = table
        try:
            self._library = Libnftables()
        except OSError as error:
            raise DataplaneError(f"libnftables can't be loaded: {error}; install it (Debian: libnftables1)") from error
        try:
            self.wire, self._monitor = NftSocket(), NftMonitor()
        except OSError as error:
            raise DataplaneError(f"no netlink socket for nf_tables: {error}; the kernel needs nfnetlink") from error
        self._missed = False

    def reason_against(self) -> str:
        """Say why nf_tables can't be used, with the remedy; "" when it can.

        It is asked for its generation: the kernel answers only when it has nf_tables and we may use it.
        """
        try:
            self._generation()
        except PermissionError:
            return "nftables needs CAP_NET_ADMIN; run as root or grant the capability"
        except OSError as error:
            return f"no nf_tables in this kernel ({error}); try: modprobe nf_tables"
        return ""

    def listen(self) -> None:
        """Hear of changes from now on, and forget what was heard."""
        self._monitor.listen()
        self.disturbed()

    def heard(self) -> bool:
        """Tell whether another program changed our tables since the last call, as far as the monitor knows."""
        return self._monitor.heard(self._table)

    def disturbed(self) -> bool:
        """Tell whether another program changed our tables since the last call."""
        heard = self.heard() or self._missed
        self._missed = False
        return heard

    def transact(self, messages: Sequence[Message]) -> list[Refusal]:
        """Commit messages: all or nothing.

        Returns:
            What was refused; empty when everything is in force.

        Raises:
            DataplaneError: the kernel did not take the transaction at all.
        """
        try:
            with self._unheard():
                return self.wire.transact(messages)
        except OSError as error:
            raise DataplaneError(f"the kernel did not take the transaction: {error}") from error

    def run(self, commands: str) -> None:
        """Run commands in nft's language as one transaction.

        Raises:
            DataplaneError: with libnftables' own words, which name the line.
        """
        with self._unheard():
            self._library.run(commands)

    def close(self) -> None:
        """Close the sockets."""
        self.wire.close()
        self._monitor.close()

    @contextmanager
    def _unheard(self) -> Iterator[None]:
        """Keep the monitor from hearing our own change, without missing anybody else's."""
        before = self._generation()
        self._monitor.pause()
        try:
            yield
        finally:
            after = self._generation()
            self._monitor.listen()
            # Each commit counts one; anything beyond ours happened while nobody listened.
            if after - before > 1 or self._generation() != after:
                self._missed = True

    def _generation(self) -> int:
        fields = dict(attributes(self.wire.get(GETGEN, 0)))
        return int(struct.unpack(">I", fields[1])[0])
