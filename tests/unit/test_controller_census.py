from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, cast

import pytest

from pointsman.controller.census import Census, Deafness, Listed, follow_census, read_names
from pointsman.controller.view import View
from pointsman.process.logs import ProblemLog
from pointsman.sources.apiserver.client import ApiError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pointsman.model.objects import Kind
    from pointsman.sources.apiserver.client import ApiClient


class Ground:
    def __init__(self) -> None:
        self.view = View()
        self.problems = ProblemLog()
        self.changes = 0
        self.census = Census(self.view, self.problems, self.changed)

    def changed(self) -> None:
        self.changes += 1

    def hear(self, kind: Kind, name: str, version: int, event: str | None = None, **fields: Any) -> None:  # noqa: ANN401 -- JSON
        metadata = {"name": name, "resourceVersion": str(version), "uid": f"uid-{name}"}
        self.census.hear(kind, event, {"metadata": metadata, **fields})

    def take(self, kind: Kind, version: int, *names: str) -> None:
        self.census.take(kind, Listed(frozenset(names), version))


@pytest.fixture
def ground() -> Ground:
    return Ground()


def test_a_kind_is_complete_when_everything_that_was_listed_was_heard_of(ground: Ground) -> None:
    ground.hear("Node", "n1", 5)
    assert "Node" not in ground.view.listed
    ground.take("Node", 7, "n1", "n2")
    assert "Node" in ground.census.missing
    ground.hear("Node", "n2", 6)
    assert "Node" not in ground.census.missing
    assert ground.view.nodes["n2"].uid == "uid-n2"


def test_a_kind_without_objects_is_complete_at_once(ground: Ground) -> None:
    ground.take("NodeProxy", 7)
    assert ground.view.listed == {"NodeProxy"}


def test_what_went_before_it_was_heard_of_is_not_waited_for(ground: Ground) -> None:
    ground.take("Node", 7, "n1", "n2")
    ground.hear("Node", "n1", 5)
    ground.hear("Node", "n2", 8, "DELETED")
    assert "Node" in ground.view.listed
    ground.take("ProxyConfig", 7, "gone")
    ground.take("ProxyConfig", 9)
    assert "ProxyConfig" in ground.view.listed


def test_what_went_unnoticed_is_found_by_the_next_census(ground: Ground) -> None:
    ground.hear("Node", "n1", 5)
    ground.hear("Node", "n2", 6)
    ground.take("Node", 9, "n2")
    assert list(ground.view.nodes) == ["n2"]


def test_what_came_after_the_list_was_made_stays(ground: Ground) -> None:
    ground.hear("Node", "n1", 12)
    ground.take("Node", 9)
    assert list(ground.view.nodes) == ["n1"]


def test_what_is_older_than_what_is_known_is_left_out(ground: Ground) -> None:
    ground.hear("Namespace", "ns", 12)
    ground.census.hear("Namespace", None, {"metadata": {"name": "ns", "resourceVersion": "11", "labels": {"a": "b"}}})
    assert "a" not in ground.view.namespace_labels("ns")
    ground.census.hear("Namespace", "DELETED", {"metadata": {"name": "ns", "resourceVersion": "10"}})
    assert "ns" in ground.view.namespaces


def test_an_object_that_cannot_be_read_is_told_and_keeps_its_last_good_form(ground: Ground) -> None:
    ground.hear("ProxyConfig", "default", 5, spec={"scheduler": "rr"})
    ground.hear("ProxyConfig", "default", 6, "MODIFIED", spec={"scheduler": 7})
    ground.hear("Node", "odd", 6, "MODIFIED", spec={"podCIDRs": 7})
    assert ground.view.configs["default"].spec.scheduler == "rr"
    assert {problem.object for problem in ground.problems.problems} == {"ProxyConfig default", "Node odd"}
    ground.take("ProxyConfig", 7, "default")
    ground.take("Node", 7, "odd")
    assert ground.view.listed >= {"ProxyConfig", "Node"}
    ground.hear("ProxyConfig", "default", 8, "DELETED")
    assert [problem.object for problem in ground.problems.problems] == ["Node odd"]


def test_names_are_read_from_a_list_of_metadata() -> None:
    body = {"metadata": {"resourceVersion": "12"}, "items": [{"metadata": {"name": "a"}}, {"metadata": {"name": "b"}}]}
    assert read_names(json.dumps(body).encode()) == Listed(frozenset("ab"), 12)


def test_a_kind_is_not_followed_when_something_stays_untold_and_no_event_comes(ground: Ground) -> None:
    ground.take("ProxyConfig", 5)
    ground.take("ProxyConfig", 9, "default")
    deafness = Deafness()
    assert deafness.look(ground.census.untold, 100.0) == ()
    assert deafness.look(ground.census.untold, 109.0) == ()
    assert deafness.look(ground.census.untold, 110.0) == ("ProxyConfig",)
    assert deafness.look(ground.census.untold, 112.0) == (), "Kopf has just been started again"
    ground.hear("ProxyConfig", "default", 7)
    assert deafness.look(ground.census.untold, 130.0) == ()
    assert ground.census.untold == {}


def test_a_long_list_that_is_being_told_is_followed(ground: Ground) -> None:
    ground.take("Node", 900, *(f"n{number}" for number in range(10)))
    deafness = Deafness()
    for number in range(9):
        ground.hear("Node", f"n{number}", number + 1)
        assert deafness.look(ground.census.untold, 9.0 * number) == ()


def test_an_api_server_that_is_away_is_no_sign_of_deafness(ground: Ground) -> None:
    ground.take("Node", 9, "n1")
    deafness = Deafness()
    assert deafness.look(ground.census.untold, 100.0) == ()
    assert deafness.look({}, 105.0) == ()
    assert deafness.look(ground.census.untold, 111.0) == ()


class OverError(Exception):
    """The test is over."""


class ApiServer:
    """Offers and lists what the test puts into it; each wait of the census is a step of the test's script.

    Attributes:
        offered: plural names in the discovery documents.
        definitions: UIDs of the CustomResourceDefinitions by their names.
        objects: names by their path.
        starts: how often Kopf was started.
    """

    def __init__(self, *script: Callable[[ApiServer], None]) -> None:
        self.offered = {"nodes", "namespaces"}
        self.definitions: dict[str, str] = {}
        self.objects: dict[str, list[str]] = {}
        self.starts = 0
        self.pauses: list[float] = []
        self._script = iter(script)
        self._now = 0.0
        self._refusal: ApiError | None = None

    def refuse(self, status: int) -> None:
        self._refusal = ApiError(status, message="no")

    def answer(self) -> None:
        self._refusal = None

    async def get(self, path: str, params: Mapping[str, str] | None = None, accept: str = "") -> bytes:
        if self._refusal is not None:
            raise self._refusal
        group, _, resource = path.rpartition("/")
        if params:
            assert resource == "customresourcedefinitions"
            uid = self.definitions.get(params["fieldSelector"].removeprefix("metadata.name="))
            return json.dumps({"metadata": {}, "items": [{"metadata": {"uid": uid}}] if uid else None}).encode()
        if resource in ("v1", "v1alpha1"):
            if resource == "v1alpha1" and not self.offered & {"proxyconfigs", "nodeproxies"}:
                raise ApiError(404, "NotFound")
            return json.dumps({"resources": [{"name": name, "verbs": ["list"]} for name in self.offered]}).encode()
        assert accept, f"the whole of {group}"
        items = [{"metadata": {"name": name}} for name in self.objects.get(resource, ())]
        return json.dumps({"metadata": {"resourceVersion": "5"}, "items": items}).encode()

    def start_kopf(self) -> None:
        self.starts += 1

    def monotonic(self) -> float:
        return self._now

    def wall(self) -> float:
        raise NotImplementedError

    async def wait(self, event: asyncio.Event, seconds: float | None) -> bool:
        assert seconds is not None
        self.pauses.append(seconds)
        self._now += seconds
        step = next(self._script, None)
        if step is None:
            raise OverError
        step(self)
        return event.is_set()

    def run(self, ground: Ground) -> None:
        with pytest.raises(OverError):
            asyncio.run(follow_census(cast("ApiClient", self), ground.census, self, self.start_kopf))


def offer(*resources: str, uid: str = "1") -> Callable[[ApiServer], None]:
    """Offer these resources, too."""

    def change(server: ApiServer) -> None:
        server.offered.update(resources)
        server.definitions.update({f"{resource}.pointsman.dev": f"{resource}-{uid}" for resource in resources})

    return change


def define(resource: str, uid: str) -> Callable[[ApiServer], None]:
    """Have a definition that is not offered yet."""
    return lambda server: server.definitions.update({f"{resource}.pointsman.dev": uid})


def expect(starts: int) -> Callable[[ApiServer], None]:
    """Ask how often Kopf has been started."""

    def look(server: ApiServer) -> None:
        assert server.starts == starts

    return look


def test_kopf_starts_when_the_api_server_offers_every_resource(
    ground: Ground, caplog: pytest.LogCaptureFixture
) -> None:
    ApiServer(expect(0), offer("proxyconfigs"), expect(0), offer("nodeproxies"), expect(1), expect(1), expect(1)).run(
        ground
    )
    assert caplog.messages == [
        f"the API server does not have the resource {kind} (pointsman.dev): install it (kubectl apply -f crds/)"
        for kind in ("ProxyConfig", "NodeProxy")
    ]
    assert ground.census.missing == ()


def test_kopf_is_started_again_when_a_resource_was_gone(ground: Ground) -> None:
    def withdraw(server: ApiServer) -> None:
        server.offered.remove("nodeproxies")

    offer_all = offer("proxyconfigs", "nodeproxies")
    ApiServer(offer_all, expect(1), withdraw, expect(1), offer_all, expect(2), expect(2)).run(ground)


def test_kopf_is_started_again_when_a_resource_was_gone_and_came_back_between_two_looks(ground: Ground) -> None:
    first, second = (offer("proxyconfigs", "nodeproxies", uid=uid) for uid in "12")
    ApiServer(first, expect(1), second, expect(2), expect(2)).run(ground)


def test_a_resource_that_is_defined_and_not_offered_is_waited_for(ground: Ground) -> None:
    ApiServer(
        offer("proxyconfigs"), define("nodeproxies", "1"), expect(0), offer("nodeproxies"), expect(1), expect(1)
    ).run(ground)


def test_an_api_server_that_refuses_and_answers_again_lets_kopf_run(ground: Ground) -> None:
    def refuse(server: ApiServer) -> None:
        server.refuse(503)

    ApiServer(
        offer("proxyconfigs", "nodeproxies"), expect(1), refuse, expect(1), ApiServer.answer, expect(1), expect(1)
    ).run(ground)


def test_kopf_is_started_again_when_it_does_not_tell_of_what_is_there(
    ground: Ground, caplog: pytest.LogCaptureFixture
) -> None:
    def add(server: ApiServer) -> None:
        server.objects["nodeproxies"] = ["n1"]

    server = ApiServer(offer("proxyconfigs", "nodeproxies"), add, *[lambda _: None] * 8)
    server.run(ground)
    assert server.starts == 2
    assert "Kopf does not tell of NodeProxy that are there; it is started again" in caplog.messages
