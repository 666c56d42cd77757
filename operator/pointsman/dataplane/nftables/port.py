"""The way to nf_tables in one network namespace: netlink, libnftables, and an ear for what others change."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pointsman.dataplane.nftables.ear import Ear
from pointsman.dataplane.nftables.structure import Libnftables
from pointsman.dataplane.protocol import DataplaneError

if TYPE_CHECKING:
    from collections.abc import Sequence

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
        try:
            self._library = Libnftables()
        except OSError as error:
            raise DataplaneError(f"libnftables can't be loaded: {error}; install it (Debian: libnftables1)") from error
        self._ear = Ear(lambda monitor: monitor.heard(table))
        self.wire = self._ear.wire

    def reason_against(self) -> str:
        """Say why nf_tables can't be used, with the remedy; "" when it can.

        It is asked for its generation: the kernel answers only when it has nf_tables and we may use it.
        """
        try:
            self._ear.generation()
        except PermissionError:
            return "nftables needs CAP_NET_ADMIN; run as root or grant the capability"
        except OSError as error:
            return f"no nf_tables in this kernel ({error}); try: modprobe nf_tables"
        return ""

    def listen(self) -> None:
        """Hear of changes from now on, and forget what was heard."""
        self._ear.listen()

    def heard(self) -> bool:
        """Tell whether another program changed our tables since the last call, as far as the monitor knows."""
        return self._ear.heard()

    def will_be_disturbed(self) -> bool:
        """Tell what `disturbed` will tell: whether what was read until now may be another program's work."""
        return self._ear.will_be_disturbed()

    def disturbed(self) -> bool:
        """Tell whether another program changed our tables since the last call."""
        return self._ear.disturbed()

    def transact(self, messages: Sequence[Message]) -> list[Refusal]:
        """Commit messages: all or nothing.

        Returns:
            What was refused; empty when everything is in force.

        Raises:
            DataplaneError: the kernel did not take the transaction at all.
        """
        try:
            with self._ear.unheard() as own:
                refusals = self.wire.transact(messages)
                own.commits = 0 if refusals else 1
                return refusals
        except OSError as error:
            raise DataplaneError(f"the kernel did not take the transaction: {error}") from error

    def run(self, commands: str) -> None:
        """Run commands in nft's language as one transaction.

        Raises:
            DataplaneError: with libnftables' own words, which name the line.
        """
        with self._ear.unheard():
            self._library.run(commands)

    def close(self) -> None:
        """Close the sockets."""
        self._ear.close()
