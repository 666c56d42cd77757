"""``python -m pointsman.lab.keeper FILE``: keeps the servers of a lab running that was left up, until SIGTERM."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from pointsman.lab.namespaces import LabError, Namespace
from pointsman.lab.network import Host
from pointsman.lab.servers import Server, Servers
from pointsman.model.plan import Transport

if TYPE_CHECKING:
    from pointsman.lab.daemon import Daemon

LISTENING: Final = "all servers listen"
"""What it prints when they do."""
_PATIENCE: Final = 30.0
"""Seconds until they do."""


class KeptServer(msgspec.Struct, frozen=True):
    """One server, with the name of the namespace that it lives in."""

    name: str
    protocol: Transport
    address: str
    port: int
    namespace: str


def start(keeper: Daemon) -> None:
    """Start a keeper, and wait until its servers listen.

    Raises:
        LabError: they do not in time, and the keeper is ended; the message holds the end of its log.
    """
    keeper.start()
    try:
        keeper.wait_until(lambda: LISTENING in keeper.log.read_text("utf-8"), "serves nothing", patience=_PATIENCE)
    except LabError:
        keeper.kill()
        raise


def describe(server: Server) -> KeptServer:
    """Describe a server for `keep`."""
    return KeptServer(server.name, server.protocol, server.address, server.port, server.host.namespace.name)


def keep(file: Path) -> None:
    """Run the servers that a file describes (JSON, a list of `KeptServer`) until SIGTERM or SIGINT."""
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    with Servers() as servers:
        for kept in msgspec.json.decode(file.read_bytes(), type=list[KeptServer]):
            host = Host(kept.name, "pod", Namespace(kept.namespace), (kept.address,), None, 0)
            servers.start(host, kept.port, kept.protocol, name=kept.name)
        print(LISTENING, flush=True)  # noqa: T201 - the lab's own process waits for it
        signal.sigwait(signals)


if __name__ == "__main__":
    keep(Path(sys.argv[1]))
