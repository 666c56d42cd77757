"""Writing the CustomResourceDefinitions of this release into a cluster: Helm itself only ever installs them."""

from __future__ import annotations

from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import msgspec

from pointsman.install.patience import InstallError
from pointsman.sources.apiserver.client import ApiError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pointsman.install.patience import Patience, Requests

FIELD_MANAGER: Final = "pointsman"
_PATH: Final = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_RESOURCE: Final = "customresourcedefinitions.apiextensions.k8s.io"


class _Condition(msgspec.Struct):
    type: str
    status: str
    message: str = ""


class _Status(msgspec.Struct):
    conditions: list[_Condition] | None = None


class _Definition(msgspec.Struct):
    status: _Status = msgspec.field(default_factory=_Status)


async def apply_crds(
    client: Requests, documents: Iterable[Mapping[str, Any]], patience: Patience, say: Callable[[str], None]
) -> None:
    """Write CustomResourceDefinitions by server-side apply, and wait until the API server serves them.

    Raises:
        InstallError: the API server refuses one, or is away for too long.
    """
    names = []
    for document in documents:
        name: str = document["metadata"]["name"]
        await _apply(client, name, document, patience)
        say(f"applied {name}")
        names.append(name)
    for name in names:
        await _wait_for(client, name, patience)
        say(f"the API server serves {name}")


async def _apply(client: Requests, name: str, document: Mapping[str, Any], patience: Patience) -> None:
    params = {"fieldManager": FIELD_MANAGER, "force": "true"}
    request = partial(client.patch, f"{_PATH}/{name}", document, "apply", params)
    try:
        await patience.ask(request, f"create and patch {_RESOURCE}")
    except ApiError as error:
        raise InstallError(
            f"{client.server} has no {_RESOURCE} ({error}); name a Kubernetes API server by --server"
        ) from error


async def _wait_for(client: Requests, name: str, patience: Patience) -> None:
    """Wait until one is established."""
    while True:
        conditions = await _conditions(client, name, patience)
        if (established := conditions.get("Established")) is not None and established.status == "True":
            return
        accepted = conditions.get("NamesAccepted")
        if accepted is not None and accepted.status == "False":
            raise InstallError(f"{name}: its names are in use: {accepted.message}; remove what has them")
        if patience.is_over:
            said = f" ({established.message})" if established is not None and established.message else ""
            raise InstallError(
                f"{name}: the API server does not serve it within {patience.seconds:g} s{said}; look into its log, "
                "or give it more time (--timeout)"
            )
        await patience.pause()


async def _conditions(client: Requests, name: str, patience: Patience) -> dict[str, _Condition]:
    try:
        answer = await patience.ask(partial(client.get, f"{_PATH}/{name}"), f"get {_RESOURCE}")
    except ApiError as error:
        if error.status == HTTPStatus.NOT_FOUND:
            raise InstallError(f"{name}: somebody deleted it just now; run this again") from error
        raise
    found = msgspec.json.decode(answer, type=_Definition)
    return {condition.type: condition for condition in found.status.conditions or ()}
