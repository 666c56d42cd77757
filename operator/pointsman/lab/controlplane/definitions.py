"""Custom resources as a client meets them: whether the API server offers what their definitions say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pointsman.lab.controlplane.api import ApiAwayError, ApiRefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman.lab.controlplane.api import Api, Document

_DEFINITIONS: Final = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


def are_offered(api: Api) -> bool:
    """Tell whether there are definitions, and all of them are established, served and named by discovery.

    None of that implies another: the condition Established is written by a controller, requests and discovery are
    answered from what others have made of the definition.
    """
    try:
        definitions = api.get(_DEFINITIONS)["items"]
        return bool(definitions) and all(_is_offered(api, definition) for definition in definitions)
    except (ApiAwayError, ApiRefusedError):
        return False


def _is_offered(api: Api, definition: Document) -> bool:
    plural = definition["spec"]["names"]["plural"]
    return _is_established(definition) and all(_serves(api, path, plural) for path in _paths(definition))


def _is_established(definition: Document) -> bool:
    conditions = (definition.get("status") or {}).get("conditions") or ()  # null in a definition that has just come
    return any((each["type"], each["status"]) == ("Established", "True") for each in conditions)


def _paths(definition: Document) -> Iterator[str]:
    """Yield the paths of the versions that are served."""
    spec = definition["spec"]
    for version in spec["versions"]:
        if version["served"]:
            yield f"/apis/{spec['group']}/{version['name']}"


def _serves(api: Api, path: str, plural: str) -> bool:
    """Tell whether a version's list can be read, and clients that ask what there is hear of it."""
    api.get(f"{path}/{plural}", {"limit": "1"})
    return any(resource["name"] == plural for resource in api.get(path)["resources"])
