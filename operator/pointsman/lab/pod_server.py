"""``python -m pointsman.lab.pod_server 80/tcp 53/udp``: the lab's server as the program of a Pod.

It calls itself by its host's name, which is the Pod's, and answers as `pointsman.lab.servers` says. A Pod that is told
to end serves on for some seconds, as the news of its end takes time to reach all nodes.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING, Final, cast

from pointsman.lab.namespaces import Namespace
from pointsman.lab.network import Host
from pointsman.lab.servers import Servers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pointsman.model.plan import Transport

_LINGER: Final = 12.0
"""Seconds that it serves on after SIGTERM: all agents hear of its end by a controller and the API server."""


class _Here(Namespace):
    """The namespace that this process is in: there is nothing to enter, and nobody may."""

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        yield


def main(ports: Sequence[str]) -> None:
    """Serve until SIGTERM.

    Args:
        ports: each as ``80/tcp`` or ``53/udp``.
    """
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    name = socket.gethostname()
    host = Host(name, "pod", _Here("own"), (socket.gethostbyname(name),), None, 0)
    with Servers() as servers:
        for port in ports:
            number, _, protocol = port.partition("/")
            servers.start(host, int(number), cast("Transport", protocol))
        signal.sigwait(signals)
        time.sleep(_LINGER)


if __name__ == "__main__":
    main(sys.argv[1:])
