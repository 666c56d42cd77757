"""What the agent writes to the API server with, and what is told when that is refused."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Literal, Protocol

import msgspec

from pointsman.model.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pointsman.sources.apiserver.client import ApiError

_REMEDIES: Final = {
    HTTPStatus.UNAUTHORIZED: "renew the agent's credentials",
    HTTPStatus.UNPROCESSABLE_ENTITY: "install the CRDs of this release of Pointsman",
}


class Writes(Protocol):
    """What is needed of `pointsman.sources.apiserver.client.ApiClient`."""

    async def get(self, path: str, params: Mapping[str, str] | None = None) -> bytes:
        """Read an object."""
        ...

    async def post(self, path: str, body: object) -> bytes:
        """Create an object."""
        ...

    async def patch(
        self,
        path: str,
        body: object,
        kind: Literal["merge", "json", "apply"] = "merge",
        params: Mapping[str, str] | None = None,
    ) -> bytes:
        """Change an object."""
        ...


class _Metadata(msgspec.Struct):
    uid: str = ""


class _Object(msgspec.Struct):
    metadata: _Metadata


def uid_of(document: bytes) -> str:
    """Read `metadata.uid`; "" when there is none, or when something else than the API server answered."""
    try:
        return msgspec.json.decode(document, type=_Object).metadata.uid
    except msgspec.DecodeError:
        return ""


def refused(what: str, error: ApiError, permission: str) -> Problem:
    """Say that the API server refused something.

    Args:
        what: was to be written.
        error: its answer.
        permission: that writing needs, as verb and resource.
    """
    remedy = _REMEDIES.get(HTTPStatus(error.status), "look into the API server's log; it is tried again")
    if error.status == HTTPStatus.FORBIDDEN:
        remedy = f"let the agent's ServiceAccount {permission} (RBAC)"
    return Problem(
        source="API server",
        object=what,
        field="",
        message=f"was refused: {error.message or error.reason} ({error.status})",
        remedy=remedy,
        dropped="this write",
    )
