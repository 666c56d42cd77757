from __future__ import annotations

import json

import pytest

from pointsman.model.objects import EndpointSlice, ObjectKey, Service
from pointsman.sources.apiserver.decode import Bookmark, Changed, Decoder, Failure, UnreadableError

SERVICE = {
    "kind": "Service",
    "apiVersion": "v1",
    "metadata": {"name": "web", "namespace": "a", "resourceVersion": "7"},
    "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]},
}
KEY = ObjectKey("Service", "a", "web")


def line(event: str, document: object) -> bytes:
    return json.dumps({"type": event, "object": document}).encode()


def test_events() -> None:
    decoder = Decoder("Service")
    for event in ("ADDED", "MODIFIED"):
        read = decoder.event(line(event, SERVICE))
        assert isinstance(read, Changed)
        assert (read.item.key, read.item.version, read.gone, read.item.problems) == (KEY, "7", False, ())
        assert isinstance(read.item.obj, Service)
    gone = decoder.event(line("DELETED", SERVICE))
    assert isinstance(gone, Changed)
    assert (gone.item.key, gone.gone) == (KEY, True)


def test_bookmarks_and_errors() -> None:
    decoder = Decoder("EndpointSlice")
    plain = {"kind": "EndpointSlice", "metadata": {"resourceVersion": "9", "creationTimestamp": None}}
    assert decoder.event(line("BOOKMARK", plain)) == Bookmark("9", ends_list=False)
    plain["metadata"] = {"resourceVersion": "9", "annotations": {"k8s.io/initial-events-end": "true"}}
    assert decoder.event(line("BOOKMARK", plain)) == Bookmark("9", ends_list=True)
    status = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old", "metadata": {}}
    assert decoder.event(line("ERROR", status)) == Failure(410, "Expired", "too old")


def test_pages() -> None:
    item = {
        "metadata": {"name": "web-1", "namespace": "a", "resourceVersion": "3"},
        "addressType": "IPv4",
        "endpoints": [],
    }
    body = {"metadata": {"resourceVersion": "12", "continue": "t"}, "items": [item, {**item, "endpoints": 5}, 3]}
    page = Decoder("EndpointSlice").page(json.dumps(body).encode())
    assert (page.version, page.next) == ("12", "t")
    good, bad, none = page.items
    assert isinstance(good.obj, EndpointSlice)
    assert (good.version, bad.version) == ("3", "3")
    assert (bad.key, bad.obj) == (ObjectKey("EndpointSlice", "a", "web-1"), None)
    assert str(bad.problems[0]).startswith("API server: EndpointSlice a/web-1: endpoints: 5 is not a list")
    assert (none.key, len(none.problems)) == (None, 1)
    assert [*Decoder("Service").page(b'{"metadata":{"resourceVersion":"1"},"items":null}').items] == []


def test_a_wrong_type_in_what_goes_still_tells_its_name() -> None:
    gone = Decoder("Service").event(line("DELETED", {**SERVICE, "spec": 5}))
    assert isinstance(gone, Changed)
    assert (gone.item.key, gone.gone) == (KEY, True)


@pytest.mark.parametrize("data", [b"", b"{}", b"null", b"<html>", b"[" * 100_000])
def test_what_is_nothing_is_told_as_such(data: bytes) -> None:
    decoder = Decoder("NodeProxy")
    with pytest.raises(UnreadableError):
        decoder.event(data)
    with pytest.raises(UnreadableError):
        decoder.page(data)


def test_problems_belong_to_their_object_alone() -> None:
    decoder = Decoder("Service")
    odd = {**SERVICE, "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 0}]}}
    first, second = decoder.event(line("ADDED", odd)), decoder.event(line("ADDED", SERVICE))
    assert isinstance(first, Changed)
    assert isinstance(second, Changed)
    assert [problem.field for problem in first.item.problems] == ["spec.ports[0].port"]
    assert first.item.obj is not None
    assert second.item.problems == ()
