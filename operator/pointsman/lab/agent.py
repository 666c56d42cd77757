"""The agent of one node: a process in the node's namespace."""

from __future__ import annotations

import contextlib
import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING, Final

import msgspec

from pointsman.lab.daemon import Daemon
from pointsman.lab.traffic import fetch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pointsman.lab.network import Host

HEALTHZ_PORT: Final = 10256
METRICS_PORT: Final = 10249
_PATIENCE: Final = 20.0
"""Seconds until an agent that is not ready, or a change that is not in the kernel, counts as failed."""
_NOTICE: Final = 3.0
"""Seconds in which an agent notices a change; one that it has not taken in by then changes nothing for it."""
_SYNC: Final = "kubeproxy_sync_proxy_rules"


class Agent:
    """An agent that can be started, killed and started again.

    Attributes:
        node: where it lives.
        daemon: its process.
    """

    def __init__(self, node: Host, source: Sequence[str], log: Path) -> None:
        """Prepare it; it is not started yet.

        Args:
            node: where it lives; its name is the node's name.
            source: the options that say what it follows: ``--manifests DIR``.
            log: file for what it says.
        """
        self.node = node
        command = [sys.executable, "-m", "pointsman", "agent", *source]
        options = ["--node-name", node.name, "--healthz-address", f"0.0.0.0:{HEALTHZ_PORT}"]
        self.daemon = Daemon(f"the agent of {node.name}", node.namespace, [*command, *options], log)

    def start(self) -> None:
        """Start it; see `wait_until_ready`."""
        self.daemon.start()

    def kill(self) -> None:
        """End it with SIGKILL: it has no chance to clean up."""
        self.daemon.kill()

    def stop(self) -> None:
        """End it with SIGTERM."""
        self.daemon.stop()

    def wait_until_ready(self) -> None:
        """Wait until its first full sync is in the kernel: /healthz says 200.

        Raises:
            LabError: it ended, or it is not ready in time; the message holds the end of its log.
        """
        self._wait(lambda: self.healthz()[0] == 200, "is not ready")  # noqa: PLR2004 - HTTP: OK

    def wait_for_sync(self, after: float) -> float:
        """Wait until it has brought a change into the kernel.

        A sync that ends after the change need not know of it: agents look at the kernel by themselves, too.

        Args:
            after: when the change was made, in Unix seconds.

        Returns:
            When the sync was done, in Unix seconds.

        Raises:
            LabError: as for `wait_until_ready`.
        """
        self._wait(lambda: self._has_taken_in(after), "has not brought the change into the kernel")
        return self._synced_at()

    def healthz(self) -> tuple[int, bytes]:
        """Return status and body of its health page; (0, an empty object) when it does not answer."""
        with contextlib.suppress(OSError):
            return fetch(self.node, "127.0.0.1", HEALTHZ_PORT, "/healthz")
        return 0, b"{}"

    def mode(self) -> str:
        """Return the mode in force, or "" when it does not answer."""
        with contextlib.suppress(OSError):
            return fetch(self.node, "127.0.0.1", METRICS_PORT, "/proxyMode")[1].decode()
        return ""

    def _has_taken_in(self, after: float) -> bool:
        """Tell whether what came after a moment has been synced; see `wait_for_sync`."""
        queued, pending = self._queue()
        # Asked for later than what waits for a sync, as more may come meanwhile.
        synced = self._synced_at()
        if queued > after:
            return not pending and synced > queued
        return synced > after and time.time() > after + _NOTICE

    def _queue(self) -> tuple[float, bool]:
        """Return when the last change came, in Unix seconds, and whether changes wait to be synced."""
        try:
            page = fetch(self.node, "127.0.0.1", METRICS_PORT, "/metrics")[1].decode()
        except OSError:
            return 0.0, True
        lines = (line.rpartition(" ") for line in page.splitlines() if line.startswith(_SYNC))
        values = {name.partition("{")[0]: float(value) for name, _, value in lines}
        pending = (values.get(f"{_SYNC}_{kind}_changes_pending", 0.0) for kind in ("service", "endpoint"))
        return values.get(f"{_SYNC}_last_queued_timestamp_seconds", 0.0), any(pending)

    def _synced_at(self) -> float:
        families = msgspec.json.decode(self.healthz()[1]).get("status", {})
        times = [datetime.fromisoformat(family["lastUpdated"]).timestamp() for family in families.values()]
        return min(times, default=0.0)

    def _wait(self, done: Callable[[], bool], problem: str) -> None:
        self.daemon.wait_until(done, problem, patience=_PATIENCE)
