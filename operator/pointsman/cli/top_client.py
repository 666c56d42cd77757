"""Asking an agent for what it has counted."""

from __future__ import annotations

from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from typing import TYPE_CHECKING, Final

import msgspec

from pointsman.agent.connections import Connections

if TYPE_CHECKING:
    from pointsman.process.listen import Address

_PATIENCE: Final = 10.0
"""Seconds that an answer may take: the agent itself gives up after five."""
_PATH: Final = "/connections"


class NoAnswer(Exception):  # noqa: N818 (the word says it)
    """The agent did not answer; the message says why, and what to do."""


class AgentClient:
    """Asks one agent.

    Args:
        address: where its metrics are; its host None stands for this node.
    """

    def __init__(self, address: Address) -> None:
        self._host = address.host or "127.0.0.1"
        self._port = address.port
        host = f"[{self._host}]" if ":" in self._host else self._host
        self._url = f"http://{host}:{self._port}{_PATH}"

    def connections(self) -> Connections:
        """Ask what it has counted.

        Raises:
            NoAnswer: there is no answer, or none of an agent.
        """
        status, body = self._get()
        if status == HTTPStatus.NOT_FOUND:
            raise NoAnswer(
                f"{self._url} does not exist: what answers there is no agent of this release "
                "(kube-proxy has the same port); name the agent's --metrics-address by --agent"
            )
        if status != HTTPStatus.OK:
            raise NoAnswer(f"{self._url} says {status}: {body[:200].decode(errors='replace').strip()}")
        try:
            return msgspec.json.decode(body, type=Connections)
        except msgspec.MsgspecError as error:
            raise NoAnswer(f"{self._url} answers, but not as an agent of this release does: {error}") from error

    def _get(self) -> tuple[int, bytes]:
        connection = HTTPConnection(self._host, self._port, timeout=_PATIENCE)
        try:
            connection.request("GET", _PATH)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, HTTPException) as error:
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise NoAnswer(
                f"no agent answers at {self._url} ({why}); run this on the node itself or in the agent's Pod, or name "
                "the agent's --metrics-address by --agent"
            ) from error
        finally:
            connection.close()
