from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pointsman.sources.apiserver import reflector
from pointsman.sources.apiserver.client import ApiError, Unreachable
from pointsman.sources.apiserver.reflector import Resource
from support.following import NAMESPACES, Follower, follow, until
from support.leaping import leaping_time
from support.watched import Watched

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from pointsman.sources.protocol import Change

CRD = "/apis/pointsman.dev/v1alpha1/nodeproxies"
END_OF_LIST = (
    b'{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"%d",'
    b'"annotations":{"k8s.io/initial-events-end":"true"}}}}'
)


@pytest.fixture(scope="module", autouse=True)
def _time() -> Iterator[None]:
    with leaping_time():
        yield


class Complaints(Follower):
    """Remembers all problems that were told: some are over in less time than a test waits between two looks."""

    def __init__(self, server: Watched) -> None:
        self.complaints: list[str] = []
        super().__init__(server)

    def _take(self, changes: Iterable[Change]) -> None:
        super()._take(changes)
        self.complaints.append(self.problems())


def server_with(*names: str, streams: bool = True) -> Watched:
    server = Watched(streams=streams)
    for name in names:
        server.put(NAMESPACES, name)
    return server


@pytest.mark.parametrize("streams", [True, False])
def test_a_list_and_then_every_change(*, streams: bool) -> None:
    server = server_with("a", "b", "c", streams=streams)
    follower = Follower(server)

    async def scenario() -> None:
        await until(lambda: follower.reflector.listed and server.watches(NAMESPACES))
        assert follower.told == ["+a", "+b", "+c"]
        assert follower.reflector.version == server.version
        server.put(NAMESPACES, "d")
        server.remove(NAMESPACES, "a")
        await until(lambda: follower.names() == {"b", "c", "d"})
        assert follower.reflector.version == server.version

    follow(follower, scenario)
    asked = server.asked(NAMESPACES)
    assert asked == (["stream"] if streams else ["stream", "list 500", "list 500 2", "watch 13"])


def test_parameters() -> None:
    server = server_with()
    resource = Resource("Namespace", NAMESPACES, labels="!x", fields="metadata.name=y")
    follower = Follower(server, resource)

    async def scenario() -> None:
        await until(lambda: follower.reflector.listed)
        server.drop()
        await until(lambda: len(server.asked(NAMESPACES)) == 2)

    follow(follower, scenario)
    (_, _, stream), (_, _, watch) = [request for request in server.requests if request[0] == "watch"]
    assert stream.items() >= {"labelSelector": "!x", "fieldSelector": "metadata.name=y"}.items() <= watch.items()
    assert (stream["sendInitialEvents"], stream["resourceVersionMatch"]) == ("true", "NotOlderThan")
    assert stream["allowWatchBookmarks"] == watch["allowWatchBookmarks"] == "true"
    assert 300 <= int(stream["timeoutSeconds"]) <= 600
    assert watch["resourceVersion"] == "10"


@pytest.mark.parametrize("error", [None, Unreachable("connection reset")])
def test_a_watch_that_ends_goes_on_where_it_was(error: Exception | None) -> None:
    server = server_with("a")
    follower = Follower(server)

    async def scenario() -> None:
        await until(lambda: follower.reflector.listed)
        server.bookmark(NAMESPACES)
        server.drop(error)
        server.put(NAMESPACES, "b")
        await until(lambda: "b" in follower.names())

    follow(follower, scenario)
    assert server.asked(NAMESPACES) == ["stream", "watch 12"]
    assert follower.told == ["+a", "+b"]
    assert follower.problems() == ""


def test_a_watch_that_nobody_ends_is_given_up_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reflector, "_WATCH_SECONDS", (0, 0))
    monkeypatch.setattr(reflector, "_SILENCE", 0.05)
    server = server_with("a")
    follower = Follower(server)

    async def scenario() -> None:
        await until(lambda: len(server.asked(NAMESPACES)) == 3 and server.watches(NAMESPACES))
        server.put(NAMESPACES, "b")
        await until(lambda: follower.names() == {"a", "b"})

    follow(follower, scenario)
    assert server.asked(NAMESPACES) == ["stream", "watch 11", "watch 11"]
    assert follower.problems() == ""


def test_bookmarks_alone_are_news_only_now_and_then() -> None:
    server = server_with("a")
    follower = Follower(server)

    async def scenario() -> None:
        await until(lambda: follower.reflector.listed)
        server.bookmark(NAMESPACES)
        server.drop()
        await until(lambda: server.asked(NAMESPACES) == ["stream", "watch 12"] and server.watches(NAMESPACES))
        assert follower.reflector.version == 11, "agents write it into their status"
        follower.clock.now += 601
        server.bookmark(NAMESPACES)
        await until(lambda: follower.reflector.version == 13)
        follower.clock.now += 599
        server.bookmark(NAMESPACES)
        server.put(NAMESPACES, "b")
        await until(lambda: follower.reflector.version == 15)

    follow(follower, scenario)


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize("how", ["event", "answer"])
def test_what_is_gone_by_a_compaction_is_found_by_comparison(how: str, *, streams: bool) -> None:
    server = server_with("a", "b", "c", streams=streams)
    follower = Follower(server)

    async def scenario() -> None:
        await until(lambda: follower.reflector.listed and server.watches(NAMESPACES))
        server.is_away = True
        server.drop()
        await until(lambda: not server.watches(NAMESPACES))
        server.remove(NAMESPACES, "a")
        server.put(NAMESPACES, "b", spec={})
        server.put(NAMESPACES, "d")
        server.compact()
        if how == "answer":
            server.failures[NAMESPACES] = [ApiError(410, "Expired", "too old")]
        server.is_away = False
        await until(lambda: follower.names() == {"b", "c", "d"})
        await until(lambda: server.watches(NAMESPACES))
        assert follower.reflector.version == server.version

    follow(follower, scenario)
    assert sorted(follower.told[3:]) == ["+b", "+d", "-a"]
    assert follower.problems() == ""


def test_an_expired_token_leads_to_the_whole_list() -> None:
    server = server_with("a", "b", "c", streams=False)
    follower = Follower(server)
    expired = ApiError(410, "Expired", "The provided continue parameter is too old")

    server.failures[NAMESPACES] = [ApiError(400, "BadRequest"), ApiError(429, retry_after=7.0), None, expired]

    async def scenario() -> None:
        await until(lambda: follower.reflector.listed)

    follow(follower, scenario)
    assert server.asked(NAMESPACES)[:5] == ["stream", "list 500", "list 500", "list 500 2", "list"]
    assert follower.told == ["+a", "+b", "+c"]
    assert 7.0 in follower.clock.slept


def test_what_goes_while_a_list_expires_is_gone() -> None:
    """The whole list that follows is newer than the pages before it."""

    class Expiring(Watched):
        async def get(self, path: str, params: Mapping[str, str] | None = None) -> bytes:
            if "continue" in (params or {}):
                self.remove(NAMESPACES, "a")
                raise ApiError(410, "Expired", "The provided continue parameter is too old")
            return await super().get(path, params)

    server = Expiring(streams=False)
    for name in "abc":
        server.put(NAMESPACES, name)
    follower = Follower(server)

    async def scenario() -> None:
        await until(lambda: follower.reflector.listed)

    follow(follower, scenario)
    assert follower.told == ["+a", "+b", "+c", "-a"]


def test_what_goes_among_the_initial_events_is_gone() -> None:
    """A server whose cache lags sends what happened since, deletions too, before the end of its list."""
    server = server_with("a", "b")
    server.ends_lists = False
    follower = Follower(server)

    async def scenario() -> None:
        await until(lambda: follower.names() == {"a", "b"})
        server.remove(NAMESPACES, "a")
        server.line(NAMESPACES, END_OF_LIST % server.version)
        await until(lambda: follower.reflector.listed)

    follow(follower, scenario)
    assert follower.told == ["+a", "+b", "-a"]


@pytest.mark.parametrize(
    "line", [b"{", b"[]", b'{"type":"WHAT","object":{}}', b'{"type":"ADDED"}', b"\xff", b'{"a":' * 100_000]
)
def test_a_line_that_is_no_event_costs_a_new_list_and_no_object(line: bytes) -> None:
    server = server_with("a")
    follower = Follower(server)

    async def scenario() -> None:
        await until(lambda: follower.reflector.listed)
        server.line(NAMESPACES, line)
        server.put(NAMESPACES, "b")
        await until(lambda: "b" in follower.names() and server.watches(NAMESPACES))

    follow(follower, scenario)
    assert follower.told == ["+a", "+b"]
    assert follower.problems() == ""


def test_an_object_that_cannot_be_read_keeps_its_last_form() -> None:
    server = server_with("a", "b")
    follower = Follower(server)

    async def scenario() -> None:
        await until(lambda: follower.reflector.listed)
        server.put(NAMESPACES, "a", metadata={"labels": {"x": 1}})
        server.put(NAMESPACES, "c")
        server.put(NAMESPACES, "", spec={})
        await until(lambda: "c" in follower.names() and "is missing" in follower.problems())
        assert follower.names() == {"a", "b", "c"}
        assert "API server: Namespace a: metadata.labels[x]: 1 is not text" in follower.problems()
        server.put(NAMESPACES, "a")
        await until(lambda: "Namespace a" not in follower.problems())
        server.put(NAMESPACES, "a", metadata={"labels": {"x": 1}})
        await until(lambda: "Namespace a" in follower.problems())
        server.remove(NAMESPACES, "a")
        await until(lambda: "Namespace a" not in follower.problems() and "a" not in follower.names())

    follow(follower, scenario)


def test_a_bad_node_proxy_stays_as_it_was() -> None:
    server = Watched()
    server.put(CRD, "n", spec={"mode": "ipvs"})
    follower = Follower(server, Resource("NodeProxy", CRD))

    async def scenario() -> None:
        await until(lambda: follower.told == ["+n"])
        server.put(CRD, "n", spec={"mode": "magic"})
        await until(lambda: "spec.mode" in follower.problems())
        assert follower.told == ["+n"]
        server.put(CRD, "n", spec={"mode": "nftables"})
        await until(lambda: follower.told == ["+n", "+n"] and not follower.problems())

    follow(follower, scenario)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ApiError(403, "Forbidden", "no"), "namespaces: cannot be followed: no (403); grant the verbs list and watch"),
        (ApiError(401, "Unauthorized", "who"), "cannot be followed: who (401); renew the credentials"),
        (ApiError(500, "InternalError", "etcd"), "cannot be followed: etcd (500); look into"),
    ],
)
def test_a_refusal_is_told_until_it_is_over(error: ApiError, words: str) -> None:
    server = server_with("a")
    follower = Follower(server)

    async def scenario() -> None:
        server.refusals[NAMESPACES] = error
        await until(lambda: words in follower.problems() and len(follower.clock.slept) > 8)
        assert follower.reflector.refused == (error.status in {401, 403})
        assert not follower.reflector.listed
        server.refusals.clear()
        await until(lambda: follower.reflector.listed)
        assert follower.problems() == ""
        assert not follower.reflector.refused

    follow(follower, scenario)
    pauses = follower.clock.slept
    assert all(0.05 <= pause <= 10.0 for pause in pauses)
    assert max(pauses) > 5.0


def test_a_resource_that_comes_later() -> None:
    server = Watched()
    server.refusals[CRD] = ApiError(404, "NotFound", "the server could not find the requested resource")
    follower = Follower(server, Resource("NodeProxy", CRD))

    async def scenario() -> None:
        await until(lambda: follower.reflector.listed)
        assert (follower.problems(), follower.told) == ("", [])
        await until(lambda: any(pause > 20 for pause in follower.clock.slept))
        server.refusals.clear()
        server.put(CRD, "n")
        await until(lambda: follower.told == ["+n"])

    follow(follower, scenario)


def test_what_is_required_is_never_absent() -> None:
    server = Watched()
    server.refusals[NAMESPACES] = ApiError(404)
    follower = Follower(server, Resource("Namespace", NAMESPACES, required=True))

    async def scenario() -> None:
        await until(lambda: "give the address of an API server" in follower.problems())
        assert not follower.reflector.listed

    follow(follower, scenario)


def test_an_error_event_leads_to_a_new_list() -> None:
    server = server_with("a")
    follower = Complaints(server)

    async def scenario() -> None:
        await until(lambda: follower.reflector.listed)
        server.error(NAMESPACES, 500, "InternalError", "lost its place")
        await until(lambda: any("lost its place" in told for told in follower.complaints))
        await until(lambda: not follower.problems())

    follow(follower, scenario)
    assert server.asked(NAMESPACES) == ["stream", "stream"]


def test_a_server_that_hangs_is_left() -> None:
    server = server_with("a")
    follower = Follower(server)

    async def scenario() -> None:
        await until(lambda: follower.reflector.listed)
        server.hangs = True
        await until(lambda: follower.link.outage is not None)
        await until(lambda: not server.watches(NAMESPACES))
        server.put(NAMESPACES, "b")
        asked = len(server.asked(NAMESPACES))
        await asyncio.sleep(0.05)
        assert len(server.asked(NAMESPACES)) == asked, "nothing but the probe is sent meanwhile"
        server.hangs = False
        await until(lambda: follower.names() == {"a", "b"})
        assert follower.link.outage is None

    follow(follower, scenario)


def test_a_stream_that_never_ends_its_list_is_given_up() -> None:
    server = server_with("a")
    follower = Follower(server)
    server.ends_lists = False

    async def scenario() -> None:
        await until(lambda: server.watches(NAMESPACES))
        server.drop()
        await until(lambda: follower.reflector.listed)

    follow(follower, scenario)
    assert server.asked(NAMESPACES) == ["stream", "list 500", "watch 11"]
    assert follower.told == ["+a"]


_TROUBLES: dict[str, Callable[[Watched], None]] = {
    "compact": Watched.compact,
    "drop": Watched.drop,
    "reset": lambda server: server.drop(Unreachable("reset")),
    "broken": lambda server: server.line(NAMESPACES, b"{broken"),
    "error": lambda server: server.error(NAMESPACES, 500),
    "410": lambda server: server.error(NAMESPACES, 410),
    "bookmark": lambda server: server.bookmark(NAMESPACES),
}
_NAMES = st.sampled_from("abcd")
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), _NAMES),
        st.tuples(st.just("remove"), _NAMES),
        st.tuples(st.sampled_from(["rest", *_TROUBLES]), st.just("")),
    ),
    max_size=30,
)


@settings(max_examples=60, deadline=None)
@given(steps=_STEPS, streams=st.booleans())
def test_whatever_happens_it_ends_with_what_the_server_has(steps: list[tuple[str, str]], *, streams: bool) -> None:
    server = server_with("a", "b", streams=streams)
    follower = Follower(server)

    async def scenario() -> None:
        for step, name in steps:
            await _do(server, step, name)
        objects = server.objects[NAMESPACES]
        there = {name: item["metadata"].get("labels", {}).get("v") for name, item in objects.items()}
        await until(lambda: {key.name: dict(obj.labels).get("v") for key, obj in follower.objects.items()} == there)

    follow(follower, scenario)


async def _do(server: Watched, step: str, name: str) -> None:
    if step == "put":
        server.put(NAMESPACES, name, metadata={"labels": {"v": str(server.version)}})
    elif step == "remove" and name in server.objects[NAMESPACES]:
        server.remove(NAMESPACES, name)
    elif step == "rest":
        await asyncio.sleep(0.002)
    elif step in _TROUBLES:
        _TROUBLES[step](server)


def test_a_stream_that_goes_on_slowly_is_waited_for_and_one_that_stops_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reflector, "_SILENCE", 0.5)
    server = server_with("a")
    server.ends_lists = False
    follower = Follower(server)

    async def scenario() -> None:
        await until(lambda: server.watches(NAMESPACES) == 1)
        for number in range(8):
            await asyncio.sleep(0.1)
            server.put(NAMESPACES, f"b-{number}")
        assert server.asked(NAMESPACES) == ["stream"]
        await until(lambda: follower.reflector.listed)

    follow(follower, scenario)
    assert server.asked(NAMESPACES)[:2] == ["stream", "list 500"]
    assert len(follower.names()) == 9
