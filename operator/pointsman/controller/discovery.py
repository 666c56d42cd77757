"""Which of the resources that Kopf follows the API server offers, and since which definition."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import msgspec

from pointsman.api.names import GROUP
from pointsman.controller.handlers import RESOURCES
from pointsman.model.objects import Kind
from pointsman.sources.apiserver.client import METADATA, ApiError

if TYPE_CHECKING:
    from pointsman.sources.apiserver.client import ApiClient

PATHS: Final[dict[Kind, str]] = {
    kind: "/".join(("/api" if len(resource) == 2 else "/apis", *resource))  # noqa: PLR2004 - the core group has no name
    for kind, resource in RESOURCES.items()
}
"""Where the objects of each kind are listed."""
_OFFERS: Final = tuple(sorted({path.rpartition("/")[0] for path in PATHS.values()}))
"""The discovery documents that tell of them."""
_DEFINITIONS: Final = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_CUSTOM: Final = tuple(f"{resource[-1]}.{GROUP}" for resource in RESOURCES.values() if resource[0] == GROUP)


class Offer(msgspec.Struct, frozen=True):
    """What the API server has.

    Attributes:
        absent: the kinds that it does not offer.
        definitions: UIDs of the CustomResourceDefinitions; one that is deleted and installed again has another.
    """

    absent: tuple[Kind, ...]
    definitions: frozenset[str]


async def find_offer(client: ApiClient) -> Offer:
    """Ask what the API server offers.

    Raises:
        ApiError, Unreachable, SourceError, msgspec.DecodeError: it does not tell.
    """
    # The definitions first: one that comes meanwhile is found by the next look, not taken for followed.
    definitions = frozenset([uid for name in _CUSTOM for uid in await _definition(client, name)])
    offers = {path: await _read_offer_at(client, path) for path in _OFFERS}
    places = ((kind, path.rpartition("/")) for kind, path in PATHS.items())
    return Offer(tuple(kind for kind, (group, _, resource) in places if resource not in offers[group]), definitions)


async def _definition(client: ApiClient, name: str) -> tuple[str, ...]:
    body = await client.get(_DEFINITIONS, {"fieldSelector": f"metadata.name={name}"}, accept=METADATA)
    return tuple(item.metadata.uid for item in msgspec.json.decode(body, type=_Objects).items or ())


async def _read_offer_at(client: ApiClient, path: str) -> frozenset[str]:
    """Read the plural names of resources from a discovery document (`metav1.APIResourceList`)."""
    try:
        body = await client.get(path)
    except ApiError as error:
        if error.status == HTTPStatus.NOT_FOUND:  # nothing of the group is installed
            return frozenset()
        raise
    return frozenset(resource.name for resource in msgspec.json.decode(body, type=_Discovered).resources)


class _Metadata(msgspec.Struct):
    uid: str


class _Object(msgspec.Struct):
    metadata: _Metadata


class _Objects(msgspec.Struct):
    items: list[_Object] | None = None


class _Resource(msgspec.Struct):
    name: str


class _Discovered(msgspec.Struct):
    resources: list[_Resource]
