"""Connections through Services, and who answers them."""

from __future__ import annotations

import socket
import struct
from typing import Final

import objects

_SERVICE_PORT: Final = 80
_TIMEOUT: Final = 0.1
"""Seconds until a connection counts as unanswered: it takes 0.1 ms when there is somebody."""
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
_TRIES: Final = 4
"""Connections at a time, when one of two endpoints is waited for."""


def answering(service: int) -> str | None:
    """Connect through a Service, from where the calling thread is.

    Returns:
        The address of the endpoint that answered, or None.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as made:
        made.settimeout(_TIMEOUT)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        try:
            made.connect((objects.cluster_ip(service), _SERVICE_PORT))
            answer = made.recv(4)
        except OSError:
            return None
    return socket.inet_ntoa(answer) if answer else None


def is_answered_by(service: int, endpoint: str) -> bool:
    """Tell whether an endpoint answers for a Service, beside others that may answer, too."""
    return any(answering(service) == endpoint for _ in range(_TRIES))
