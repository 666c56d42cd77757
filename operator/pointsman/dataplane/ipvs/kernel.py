"""The parts of the kernel that the mode `ipvs` talks to besides nf_tables: IPVS, routes, addresses, one sysctl."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Final

from pointsman.api.schedulers import SCHEDULERS
from pointsman.dataplane.ipvs import listing
from pointsman.dataplane.ipvs.genl import IpvsSocket
from pointsman.dataplane.ipvs.routes import Routes
from pointsman.dataplane.node_addresses import AddressWatch
from pointsman.dataplane.protocol import DataplaneError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from pointsman.dataplane.ipvs.listing import Counts, Listed
    from pointsman.dataplane.ipvs.objects import Real, Server, ServerKey
    from pointsman.dataplane.ipvs.wire import RealCounters
    from pointsman.model.plan import IpvsSettings

CONNTRACK: Final = "net/ipv4/vs/conntrack"
_ONE_BY_ONE: Final = 32
"""Up to so many virtual servers are asked for one by one; for more the whole listing is read."""
_NO_IPVS: Final = (
    "no IPVS in this kernel; run `modprobe ip_vs`, and put `ip_vs` into a file in /etc/modules-load.d to keep it "
    "(Debian: the package linux-image-amd64 has the module; minimal kernels may not)"
)


class IpvsKernel:
    """Everything happens in the network namespace of the thread that makes it and calls it; it blocks.

    Args:
        sysctl_root: where the kernel's parameters are.

    Attributes:
        routes: our local routes.
        watch: the node's addresses.
    """

    def __init__(self, sysctl_root: Path) -> None:
        """Open the sockets; without IPVS there are still routes to remove.

        Raises:
            OSError: the kernel has no rtnetlink.
        """
        self._conntrack = sysctl_root / CONNTRACK
        self._ipvs: IpvsSocket | None = None
        self._why_none = _NO_IPVS
        try:
            self._ipvs = IpvsSocket()
        except FileNotFoundError:
            pass
        except OSError as error:
            self._why_none = f"no generic netlink in this kernel ({error.strerror})"
        self.routes, self.watch = Routes(), AddressWatch()
        self._schedulers: tuple[str, ...] | None = None

    @property
    def ipvs(self) -> IpvsSocket:
        """Virtual and real servers.

        Raises:
            DataplaneError: the kernel has no IPVS; with the remedy.
        """
        if self._ipvs is None:
            raise DataplaneError(self._why_none)
        return self._ipvs

    def has_ipvs(self) -> bool:
        """Tell whether IPVS is there: it may never have been, and its module can be unloaded."""
        try:
            self.ipvs.version()
        except (DataplaneError, FileNotFoundError):
            return False
        except OSError:
            return True
        return True

    def reason_against(self) -> str:
        """Say why the mode can't run here, with the remedy; "" when it can. Changes nothing."""
        try:
            self.ipvs.version()
        except DataplaneError as error:
            return str(error)
        except PermissionError:
            return "IPVS needs CAP_NET_ADMIN in the machine's first user namespace; run as root, or grant it"
        except FileNotFoundError:
            return _NO_IPVS
        except OSError as error:
            return f"IPVS does not answer ({error.strerror}); see the kernel's log"
        return self._why_untracked()

    def _why_untracked(self) -> str:
        """Say why IPVS can't track connections, without which nothing of it is masqueraded; "" when it can."""
        try:
            tracked = self._conntrack.read_text("ascii").strip() == "1"
        except OSError:
            return f"{self._conntrack} is missing: IPVS can't track connections; use a kernel with CONFIG_IP_VS_NFCT"
        if tracked or os.access(self._conntrack, os.W_OK):
            return ""
        return (
            "net.ipv4.vs.conntrack is 0 and can't be set; run `sysctl -w net.ipv4.vs.conntrack=1` on the node, or let "
            "the agent write there (--sysctl-root)"
        )

    def schedulers(self) -> tuple[str, ...]:
        """Return the schedulers that the kernel has; asked once.

        Raises:
            DataplaneError: it can't be told.
        """
        if self._schedulers is None:
            try:
                self._schedulers = self.ipvs.schedulers(SCHEDULERS["ipvs"])
            except OSError as error:
                raise DataplaneError(f"IPVS does not say which schedulers it has: {error}") from error
        return self._schedulers

    def prepare(self, settings: IpvsSettings) -> None:
        """Set what has to be in force before the first connection: connection tracking, and timeouts.

        Raises:
            DataplaneError: connection tracking can't be switched on, or the kernel refused a timeout.
        """
        try:
            if self._conntrack.read_text("ascii").strip() != "1":
                self._conntrack.write_text("1\n", "ascii")
        except OSError as error:
            raise DataplaneError(f"IPVS can't be used: {self.reason_against() or error}") from error
        wanted = [settings.tcp_timeout, settings.tcp_fin_timeout, settings.udp_timeout]
        seconds = [math.ceil(value or 0) for value in wanted]
        if any(seconds):
            try:
                self.ipvs.set_timeouts(*seconds)
            except OSError as error:
                raise DataplaneError(
                    f"spec.ipvs: the kernel refused {seconds[0]}, {seconds[1]} and {seconds[2]} s as tcpTimeout, "
                    f"tcpFinTimeout and udpTimeout ({error.strerror}); write less than 500h"
                ) from error

    def servers(self) -> dict[ServerKey, tuple[Server, dict[Real, int]]]:
        """Read all virtual servers, whoever made them, with their real servers' weights: two requests, mostly.

        Raises:
            OSError: they can't be read.
        """
        listed = self.listed()
        return {
            key: (server, {real: counts.weight for real, counts in self.reals(key, listed).items()})
            for key, server in self.ipvs.services().items()
        }

    def there(self, keys: Collection[ServerKey]) -> frozenset[ServerKey]:
        """Return those of some virtual servers that are there, whoever made them.

        Raises:
            OSError: it can't be told.
        """
        if len(keys) > _ONE_BY_ONE:
            return frozenset(self.ipvs.services().keys() & set(keys))
        return frozenset(key for key in keys if self.ipvs.has(key))

    def listed(self) -> Mapping[ServerKey, Listed]:
        """Read all virtual and real servers with what they do now, in one go.

        Raises:
            OSError: they can't be read.
        """
        return listing.read()

    def reals(self, key: ServerKey, listed: Mapping[ServerKey, Listed]) -> Mapping[Real, Counts | RealCounters]:
        """Return the real servers of a virtual server that is there, whether it is in a listing or not.

        Where another network namespace has virtual servers too, the listing lacks some of ours: the kernel's
        ``ip_vs_info_seq_next`` counts those of all namespaces, and ``ip_vs_info_array`` goes on, at the next page,
        behind that many of this one.

        Raises:
            OSError: they can't be read.
        """
        return listed[key].reals if key in listed else self.ipvs.dests(key)

    def connections(self, keys: Collection[ServerKey]) -> Mapping[ServerKey, Mapping[Real, int]]:
        """Count the connections of the real servers of some virtual servers, in whatever state.

        Raises:
            OSError: they can't be read.
        """
        listed = self.listed() if len(keys) > _ONE_BY_ONE else {}
        return {
            key: {real: counts.active + counts.inactive for real, counts in self.reals(key, listed).items()}
            for key in keys
        }

    def close(self) -> None:
        """Close the sockets."""
        if self._ipvs is not None:
            self._ipvs.close()
        self.routes.close()
        self.watch.close()
