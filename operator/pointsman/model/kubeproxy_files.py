"""Where the configuration of kube-proxy is in what people have: a file of its own, a ConfigMap, a list, many documents.

kubeadm keeps it in the ConfigMap ``kube-system/kube-proxy``, under ``config.conf``; others use other keys, so that all
of them are looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pointsman.api.kubeproxy import KIND
from pointsman.model.documents import UnreadableError, documents

if TYPE_CHECKING:
    from collections.abc import Iterator

_GROUP: Final = "kubeproxy.config.k8s.io"
_VERSION: Final = f"{_GROUP}/v1alpha1"


class Found(NamedTuple):
    """One configuration.

    Attributes:
        place: where it is in the file (``ConfigMap kube-system/kube-proxy, config.conf``), or "".
        document: it, as plain data.
    """

    place: str
    document: dict[str, Any]


class NotFoundError(Exception):
    """There is not exactly one configuration of kube-proxy; the message says what there is, and what to do."""


def kube_proxy_configuration(data: bytes) -> Found:
    """Find the one configuration of kube-proxy in a file.

    Args:
        data: the file's bytes, YAML or JSON.

    Raises:
        NotFoundError: it cannot be read, or has none, more than one, or one of another version.
    """
    found, kinds = list[Found](), list[str]()
    for document in _documents(data, "the file"):
        for each in _flat(document):
            kinds.append(_kind(each))
            found += _in_object(each)
    if not found:
        what = f"has {', '.join(dict.fromkeys(kinds))}" if kinds else "is empty"
        raise NotFoundError(
            f"{what}, and no {KIND}; name kube-proxy's --config file, or what "
            "`kubectl -n kube-system get configmap kube-proxy -o yaml` prints"
        )
    if len(found) > 1:
        places = " and ".join(each.place or "a document" for each in found)
        raise NotFoundError(f"has {len(found)} of kind {KIND} ({places}); leave one of them in the file")
    _check_version(found[0])
    return found[0]


def _check_version(found: Found) -> None:
    version = found.document.get("apiVersion")
    if version != _VERSION:
        where = f"{found.place}: " if found.place else ""
        raise NotFoundError(f"{where}apiVersion: {version!r} is not known; write it as {_VERSION} has it")


def _documents(data: bytes, what: str) -> list[object]:
    try:
        form, items = documents(data)
        return [form.plain(item) for item in items]
    except UnreadableError as error:
        raise NotFoundError(f"{what} {error}; {error.remedy}") from None
    except RecursionError:
        raise NotFoundError(f"{what} is nested too deep; write it flat") from None


def _flat(document: object) -> Iterator[object]:
    """Yield the objects of a document: itself, or those of a list."""
    items = document.get("items") if isinstance(document, dict) else None
    if isinstance(document, dict) and isinstance(items, list) and str(document.get("kind")).endswith("List"):
        for item in items:
            # The items of a typed list need not say their kind.
            named = {"kind": str(document["kind"]).removesuffix("List"), **item} if isinstance(item, dict) else item
            yield from _flat(named)
    else:
        yield document


def _kind(document: object) -> str:
    return str(document.get("kind", "an object without kind")) if isinstance(document, dict) else "no object"


def _in_object(document: object) -> Iterator[Found]:
    if not isinstance(document, dict):
        return
    if document.get("kind") == KIND:
        yield Found("", document)
    elif document.get("kind") == "ConfigMap":
        yield from _in_config_map(document)


def _in_config_map(config_map: dict[str, Any]) -> Iterator[Found]:
    data, metadata = config_map.get("data"), config_map.get("metadata")
    names = metadata if isinstance(metadata, dict) else {}
    name = "/".join(str(names[key]) for key in ("namespace", "name") if names.get(key))
    for key, text in data.items() if isinstance(data, dict) else ():
        if not isinstance(text, str) or KIND not in text:
            continue
        place = f"ConfigMap {name}, {key}"
        for document in _documents(text.encode(), place):
            if _kind(document) == KIND and isinstance(document, dict):
                yield Found(place, document)
