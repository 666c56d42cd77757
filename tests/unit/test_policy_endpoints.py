from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pointsman.model.objects import Endpoint, EndpointPort, EndpointSlice, ServicePort
from pointsman.policy.endpoints import Place, Target, choose, find_targets

VECTORS = Path(__file__).parents[1] / "vectors" / "topology.json"
CASES = json.loads(VECTORS.read_text())["cases"]
HERE = Place("here", "zone-a")


def _endpoint(case: dict[str, Any], entry: dict[str, Any]) -> Endpoint:
    return Endpoint(
        entry["endpoint"].partition(":")[0],
        entry["ready"],
        entry["serving"],
        entry["terminating"],
        node=case["nodeName"] if entry["isLocal"] else "another-node",
        zone_hints=tuple(entry.get("forZones", ())),
        node_hints=tuple(entry.get("forNodes", ())),
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_upstream_topology_cases(case: dict[str, Any]) -> None:
    service, expected = case["service"], case["expect"]
    internal_local = service["internalTrafficPolicy"] == "Local"
    external_local = service["externalTrafficPolicy"] == "Local"
    accessible = bool(service["nodePort"])
    part = EndpointSlice(
        "ns", "s", "svc", ports=(EndpointPort(80),), endpoints=tuple(_endpoint(case, e) for e in case["endpoints"])
    )
    place = Place(case["nodeName"], case["nodeLabels"].get("topology.kubernetes.io/zone", ""))
    choice = choose(
        find_targets([part], ServicePort(80), place.node, {}),
        place,
        cluster=accessible or not internal_local,
        local=internal_local or (accessible and external_local),
    )
    assert _named(choice.cluster) == expected["clusterEndpoints"]
    assert _named(choice.local) == expected["localEndpoints"]
    assert bool(choice.usable) == expected["hasAnyEndpoints"]
    union = {*(_named(choice.cluster) or ()), *(_named(choice.local) or ())}
    assert sorted(union) == expected["allReachableEndpoints"]


def _named(targets: tuple[Target, ...] | None) -> list[str] | None:
    return None if targets is None else [f"{t.backend.address}:{t.backend.port}" for t in targets]


def _choose(*endpoints: Endpoint, weight: int | None = None, pods: dict[str, int] | None = None) -> list[str]:
    part = EndpointSlice("ns", "s", "svc", ports=(EndpointPort(80),), endpoints=endpoints, weight=weight)
    targets = find_targets([part], ServicePort(80), HERE.node, pods or {})
    return _named(choose(targets, HERE, cluster=True, local=False).cluster) or []


def test_node_hint_beats_zone_hint() -> None:
    near = Endpoint("10.0.0.1", zone_hints=("zone-a",), node_hints=("here",))
    same_zone = Endpoint("10.0.0.2", zone_hints=("zone-a",), node_hints=("there",))
    far = Endpoint("10.0.0.3", zone_hints=("zone-b",), node_hints=("elsewhere",))
    assert _choose(near, same_zone, far) == ["10.0.0.1:80"]
    assert _choose(same_zone, far) == ["10.0.0.2:80"]
    assert _choose(far) == ["10.0.0.3:80"]


def test_one_ready_endpoint_without_a_hint_turns_hints_off() -> None:
    hinted, plain = Endpoint("10.0.0.1", zone_hints=("zone-a",)), Endpoint("10.0.0.2")
    assert _choose(hinted, plain) == ["10.0.0.1:80", "10.0.0.2:80"]
    assert _choose(plain, hinted) == ["10.0.0.1:80", "10.0.0.2:80"]
    unready = Endpoint("10.0.0.3", ready=False)
    other = Endpoint("10.0.0.4", zone_hints=("zone-b",))
    assert _choose(hinted, other, unready) == ["10.0.0.1:80"]


def test_a_zone_that_is_drained_sends_its_clients_elsewhere() -> None:
    drained = Endpoint("10.0.0.1", zone_hints=("zone-a",), pod="drained")
    other = Endpoint("10.0.0.2", zone_hints=("zone-b",))
    assert _choose(drained, other, pods={"ns/drained": 0}) == ["10.0.0.1:80", "10.0.0.2:80"]
    assert _choose(drained, other) == ["10.0.0.1:80"]


def test_never_those_that_do_not_serve() -> None:
    gone = Endpoint("10.0.0.1", ready=False, serving=False, terminating=True)
    starting = Endpoint("10.0.0.2", ready=False, serving=True)
    leaving = Endpoint("10.0.0.3", ready=False, serving=True, terminating=True)
    assert _choose(gone, starting) == []
    assert _choose(gone, starting, leaving) == ["10.0.0.3:80"]
    assert _choose(gone, starting, leaving, Endpoint("10.0.0.4")) == ["10.0.0.4:80"]


def test_an_endpoint_without_node_is_not_local_policy_but_may_be_here() -> None:
    part = EndpointSlice("ns", "s", "svc", ports=(EndpointPort(80),), endpoints=(Endpoint("10.0.0.1"),))
    (target,) = find_targets([part], ServicePort(80), "here", {})
    assert target.backend.local
    assert choose((target,), HERE, cluster=False, local=True).local == ()


def test_ports_match_by_name_and_protocol() -> None:
    endpoints = (Endpoint("10.0.0.1"),)
    part = EndpointSlice(
        "ns",
        "s",
        "svc",
        ports=(EndpointPort(8080, "http"), EndpointPort(53, "dns", "udp"), EndpointPort(5353, "dns", "tcp")),
        endpoints=endpoints,
    )
    assert [t.backend.port for t in find_targets([part], ServicePort(80, "http"), "here", {})] == [8080]
    assert [t.backend.port for t in find_targets([part], ServicePort(53, "dns", "udp"), "here", {})] == [53]
    assert find_targets([part], ServicePort(80, "https"), "here", {}) == ()
    assert find_targets([part], ServicePort(80), "here", {}) == ()


def test_the_same_address_in_two_slices_is_one_and_the_ready_one_wins() -> None:
    ready = EndpointSlice("ns", "a", "svc", ports=(EndpointPort(80),), endpoints=(Endpoint("10.0.0.1", node="x"),))
    unready = EndpointSlice(
        "ns", "b", "svc", ports=(EndpointPort(80),), endpoints=(Endpoint("10.0.0.1", ready=False, serving=False),)
    )
    for order in ([ready, unready], [unready, ready]):
        (target,) = find_targets(order, ServicePort(80), "here", {})
        assert target.endpoint.ready


@pytest.mark.parametrize(
    ("slice_weight", "pod_weight", "expected"),
    [(None, None, 1), (5, None, 5), (0, None, 0), (5, 7, 7), (0, 7, 7), (5, 0, 0), (None, 256, 256)],
)
def test_a_pods_weight_beats_the_slices(slice_weight: int | None, pod_weight: int | None, expected: int) -> None:
    part = EndpointSlice(
        "ns", "s", "svc", ports=(EndpointPort(80),), endpoints=(Endpoint("10.0.0.1", pod="p"),), weight=slice_weight
    )
    weights = {} if pod_weight is None else {"ns/p": pod_weight}
    (target,) = find_targets([part], ServicePort(80), "here", weights)
    assert target.backend.weight == expected


def test_a_pod_of_the_same_name_in_another_namespace_means_nothing() -> None:
    part = EndpointSlice("ns", "s", "svc", ports=(EndpointPort(80),), endpoints=(Endpoint("10.0.0.1", pod="p"),))
    (target,) = find_targets([part], ServicePort(80), "here", {"other/p": 9})
    assert target.backend.weight == 1
