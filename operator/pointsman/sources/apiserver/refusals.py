"""Saying that a resource cannot be followed, and what to do about it."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from pointsman.model.problems import Problem
from pointsman.sources.apiserver.decode import SOURCE

if TYPE_CHECKING:
    from pointsman.sources.apiserver.client import ApiError

_STALE = "news of this resource; what is known stays in force"


def refused(path: str, error: ApiError) -> Problem:
    """Say that the API server answers with an error.

    Args:
        path: of the resource's list.
        error: the answer.
    """
    said = error.message or error.reason or "no reason given"
    return Problem(
        SOURCE, _name(path), "", f"cannot be followed: {said} ({error.status})", _remedy(path, error), _STALE
    )


def failed(path: str, message: str) -> Problem:
    """Say that a resource cannot be followed for another reason."""
    return Problem(SOURCE, _name(path), "", f"cannot be followed: {message}", "it is tried again", _STALE)


def _remedy(path: str, error: ApiError) -> str:
    match error.status:
        case HTTPStatus.FORBIDDEN:
            return f"grant the verbs list and watch on {_name(path)} (RBAC: a ClusterRole and its binding)"
        case HTTPStatus.UNAUTHORIZED:
            return "renew the credentials (token or client certificate) that this agent uses"
        case HTTPStatus.NOT_FOUND:
            return "give the address of an API server that serves it"
        case _:
            return "look into the API server's log; it is tried again"


def _name(path: str) -> str:
    """Write the resource as RBAC and kubectl do: ``services``, ``endpointslices.discovery.k8s.io``."""
    steps = path.strip("/").split("/")
    return f"{steps[-1]}.{steps[1]}" if steps[0] == "apis" else steps[-1]
