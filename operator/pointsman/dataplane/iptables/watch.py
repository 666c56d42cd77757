"""Finding out, cheaply, that another program changed our rules.

The variant over nf_tables is told of every change by the kernel. The legacy one is not: there the kernel is asked for
the number and the size of a table's rules, which a flush changes and one rule for another does not.
"""

from __future__ import annotations

import ctypes
import re
import socket
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol

from pointsman.dataplane.nftables.ear import Ear

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager


_OURS: Final = re.compile(
    rb"KUBE-(?:SERVICES|EXTERNAL-SERVICES|NODEPORTS|POSTROUTING|MARK-MASQ|MARK-OFF-CLUSTER|FORWARD|PROXY-FIREWALL|FIREWALL"
    rb"|(?:SVC|SVL|EXT|FW|SEP)-[A-Z2-7]{16})\0|POINTSMAN-HINT\0"
)
"""In every message about one of our chains, a rule in it, or a rule that leads there."""
_TABLES: Final = ("nat", "filter")
_GET_INFO: Final = 64
"""IPT_SO_GET_INFO and IP6T_SO_GET_INFO (linux/netfilter_ipv4/ip_tables.h)."""
_INFO: Final = struct.Struct("=32s11III")
"""struct ipt_getinfo: name, hooks and their entries, number of rules, octets."""
_FAMILIES: Final = ((socket.AF_INET, socket.IPPROTO_IP), (socket.AF_INET6, socket.IPPROTO_IPV6))


class Watch(Protocol):
    """Tells of changes by others in the network namespace of the thread that made it."""

    tells_all: bool
    """Whether no change escapes it."""

    def listen(self) -> None:
        """Forget what was heard; what happens from now on counts."""
        ...

    def disturbed(self) -> bool:
        """Tell whether another program changed our rules since the last call; cheap."""
        ...

    def unheard(self, commits: int) -> AbstractContextManager[object]:
        """Take what happens meanwhile for our own doing.

        Args:
            commits: the most transactions that we make.
        """
        ...

    def close(self) -> None:
        """Release sockets."""
        ...


class NftWatch(Ear):
    """Hears of every change in nf_tables (see `Watch`)."""

    tells_all = True

    def __init__(self) -> None:
        """Open netlink sockets.

        Raises:
            DataplaneError: the kernel has no nfnetlink.
        """
        super().__init__(lambda monitor: monitor.heard_naming(_OURS))


class LegacyWatch:
    """Looks at the number and the size of rules."""

    tells_all = False

    def __init__(self) -> None:
        """Open sockets; a family that the kernel lacks has none."""
        self._library = ctypes.CDLL(None, use_errno=True)
        self._sockets = {}
        for family, level in _FAMILIES:
            try:
                self._sockets[level] = socket.socket(family, socket.SOCK_DGRAM)
            except OSError:
                continue
        self._last: dict[tuple[int, str], tuple[int, int] | None] = {}
        self._missed = False

    def listen(self) -> None:
        """See `Watch.listen`."""
        self._last, self._missed = self._look(), False

    def disturbed(self) -> bool:
        """See `Watch.disturbed`."""
        found = self._look()
        heard = found != self._last or self._missed
        self._last, self._missed = found, False
        return heard

    @contextmanager
    def unheard(self, commits: int) -> Iterator[None]:
        """See `Watch.unheard`."""
        del commits
        self._missed = self.disturbed()
        try:
            yield
        finally:
            self._last = self._look()

    def close(self) -> None:
        """See `Watch.close`."""
        for each in self._sockets.values():
            each.close()

    def _look(self) -> dict[tuple[int, str], tuple[int, int] | None]:
        return {
            (level, table): self._info(opened, level, table)
            for level, opened in self._sockets.items()
            for table in _TABLES
        }

    def _info(self, opened: socket.socket, level: int, table: str) -> tuple[int, int] | None:
        """Ask for the number and the size of a table's rules; None where there is none.

        The option's value names the table on its way in, which `socket.getsockopt` cannot say.
        """
        value = ctypes.create_string_buffer(_INFO.size)
        value.value = table.encode()
        size = ctypes.c_uint32(_INFO.size)
        if self._library.getsockopt(opened.fileno(), level, _GET_INFO, value, ctypes.byref(size)):
            return None
        *_, entries, octets = _INFO.unpack(value.raw)
        return entries, octets
