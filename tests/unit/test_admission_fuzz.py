"""Whatever the JSON, there is a proper answer: allowed, or refused with a code, a reason and causes."""

from __future__ import annotations

import contextlib
import copy
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pointsman.controller.admission.review import NotAReviewError, read_request
from support.pictures import Answer, HandPicture, ask, port, review, service

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=10)
    | st.sampled_from(["NodePort", "LoadBalancer", "Local", "ClientIP", "None", "UDP", "", "ipvs", "30000-32767"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)
SERVICE = service(
    port(80, 58080),
    kind="LoadBalancer",
    scheduler="mh",
    externalTrafficPolicy="Local",
    healthCheckNodePort=40000,
    sessionAffinity="ClientIP",
    sessionAffinityConfig={"clientIP": {"timeoutSeconds": 5}},
    metadata={
        "labels": {"a": "b"},
        "managedFields": [
            {"fieldsV1": {"f:spec": {"f:ports": {'k:{"port":80,"protocol":"TCP"}': {"f:nodePort": {}}}}}}
        ],
    },
)
CONFIG = {
    "metadata": {"name": "default", "generation": 3},
    "spec": {
        "mode": "nftables",
        "fallbackModes": ["ipvs"],
        "nodePortRange": "30000-32767",
        "nodePortRanges": [{"namespaceSelector": {"matchLabels": {"a": "b"}}, "range": "31000-31010"}],
        "nodeSelector": {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]},
        "priority": 3,
        "rollout": {"maxUnavailable": "10%"},
    },
}


def places(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """List the paths of everything in a document."""
    match value:
        case dict():
            return [path, *(place for key, item in value.items() for place in places(item, (*path, key)))]
        case list():
            return [path, *(place for index, item in enumerate(value) for place in places(item, (*path, index)))]
        case _:
            return [path]


def changed(document: dict[str, Any], path: tuple[str | int, ...], value: object) -> Any:  # noqa: ANN401 -- JSON
    """Put a value in a place of a document."""
    if not path:
        return value
    made = copy.deepcopy(document)
    inside: Any = made
    for step in path[:-1]:
        inside = inside[step]
    inside[path[-1]] = value
    return made


def is_proper(answer: Answer) -> bool:
    if answer.allowed:
        return not answer.status
    return answer.status["code"] == 422 and answer.status["reason"] == "Invalid" and bool(answer.causes)


@given(path=st.sampled_from(places(SERVICE)), value=JSON, update=st.booleans(), dry_run=st.booleans())
def test_services_with_anything_anywhere(
    path: tuple[str | int, ...], value: object, *, update: bool, dry_run: bool
) -> None:
    new = changed(SERVICE, path, value)
    assert is_proper(ask(review(new, SERVICE if update else None, dryRun=dry_run)))
    assert is_proper(ask(review(SERVICE, new if update and new is not None else None, dryRun=dry_run)))


@given(path=st.sampled_from(places(CONFIG)), value=JSON, update=st.booleans())
def test_proxy_configs_with_anything_anywhere(path: tuple[str | int, ...], value: object, *, update: bool) -> None:
    new = changed(CONFIG, path, value)
    assert is_proper(ask(review(new, CONFIG if update else None, kind="ProxyConfig")))
    assert is_proper(ask(review(CONFIG, new if update and new is not None else None, kind="ProxyConfig")))


@given(data=st.data())
def test_reviews_with_anything_anywhere(data: st.DataObject) -> None:
    whole = json.loads(review(SERVICE))
    path = data.draw(st.sampled_from(places(whole)))
    with contextlib.suppress(NotAReviewError):
        assert is_proper(ask(json.dumps(changed(whole, path, data.draw(JSON))).encode(), HandPicture()))


@given(st.binary(max_size=200))
def test_bytes(body: bytes) -> None:
    with contextlib.suppress(NotAReviewError):
        read_request(body)


@given(cut=st.integers(min_value=0, max_value=len(review(SERVICE)) - 1), flip=st.integers(1, 255))
def test_broken_transmission(cut: int, flip: int) -> None:
    whole = review(SERVICE)
    for body in (whole[:cut], whole[:cut] + bytes([whole[cut] ^ flip]) + whole[cut + 1 :]):
        with contextlib.suppress(NotAReviewError):
            assert is_proper(ask(body))
