"""The rules for ProxyConfigs, from the bytes of a review to the words of its answer."""

from __future__ import annotations

from typing import Any

import pytest

from pointsman.api.names import MODES
from pointsman.model.objects import Service, ServicePort
from support.pictures import HandPicture, ask, config, review

NODES = {"n1": {"zone": "a"}, "n2": {"zone": "a"}, "n3": {"zone": "b"}}


def written(name: str = "default", **spec: object) -> dict[str, Any]:
    return {"apiVersion": "pointsman.dev/v1alpha1", "kind": "ProxyConfig", "metadata": {"name": name}, "spec": spec}


def warnings(new: dict[str, Any], old: object = None, **picture: Any) -> list[str]:  # noqa: ANN401 -- a picture's
    answer = ask(review(new, old, kind="ProxyConfig"), HandPicture(**picture))
    assert answer.allowed
    return answer.warnings


def node_port(name: str, *ports: int, health: int = 0) -> Service:
    numbers = tuple(ServicePort(80, node_port=number) for number in ports)
    return Service("shop", name, "NodePort", ports=numbers, health_check_node_port=health)


def test_nothing_to_say() -> None:
    assert warnings(written(), nodes=NODES) == []
    assert warnings(written(), config("x").model_dump(), nodes=NODES) == []


def test_what_the_model_refuses_is_refused_field_by_field() -> None:
    answer = ask(
        review(written(mode="nftables", scheduler="lc", nodePortRange="9-1", podCIDRs=["10"]), kind="ProxyConfig"),
    )
    assert [cause.split(": ")[:2] for cause in answer.causes] == [
        ["spec.scheduler", "Invalid value"],
        ["spec.nodePortRange", "Invalid value"],
        ["spec.podCIDRs[0]", "Invalid value"],
    ]
    assert answer.status["message"].startswith('ProxyConfig.pointsman.dev "web" is invalid: [spec.scheduler: ')
    assert answer.status["details"]["group"] == "pointsman.dev"
    assert answer.causes[0] == (
        "spec.scheduler: Invalid value: 'lc': allowed: in mode nftables: random, rr, wrr, sh, dh, mh, "
        "or one of your own as example.com/name"
    )


def test_what_is_missing_is_required() -> None:
    answer = ask(review(written(nodePortRanges=[{}]), kind="ProxyConfig"))
    assert answer.causes == ["spec.nodePortRanges[0].range: Required value: a value"]
    assert answer.reasons == ["FieldValueRequired"]


def test_an_old_invalid_one_can_be_labelled_and_deleted() -> None:
    bad = written(mode="carrier-pigeon")
    assert "it was so before" in warnings(bad | {"status": {}}, bad)[0]
    going = bad | {"metadata": {"name": "default", "deletionTimestamp": "2026-01-31T12:00:00Z"}}
    assert warnings(going, written()) == []


def test_a_mode_of_somebodys_own_is_known_to_nodes_alone() -> None:
    own = written(mode="example.com/toy", fallbackModes=["ipvs", "nftables"], scheduler="quickest")
    assert warnings(own, nodes=NODES) == [
        (
            "spec.mode: example.com/toy is none of Pointsman's own: nodes are in that mode if the package that has it "
            "is in the agents' image, else in mode ipvs, or nftables"
        )
    ]


@pytest.mark.parametrize("mode", MODES)
def test_the_modes_of_this_release(mode: str) -> None:
    assert warnings(written(mode=mode), nodes=NODES) == []


class TestNodes:
    def test_it_selects_none(self) -> None:
        new = written(nodeSelector={"matchLabels": {"zone": "c"}})
        assert warnings(new, nodes=NODES) == ["spec.nodeSelector: it selects none of the cluster's nodes"]
        assert warnings(new) == [], "there is no node yet"

    def test_others_win_everywhere(self) -> None:
        others = (config("strong", priority=10),)
        assert warnings(written(), nodes=NODES, configs=others) == [
            "spec.priority: no node gets it: ProxyConfig strong wins on every node that it selects"
        ]

    def test_a_tie_is_told_with_its_nodes_and_its_winner(self) -> None:
        others = (config("a-zone", nodeSelector={"matchLabels": {"zone": "a"}}), config("low", priority=-1))
        assert warnings(written(), nodes=NODES, configs=others) == [
            (
                "spec.priority: ProxyConfig a-zone has the same (0) for nodes that both select (n1, n2): "
                "a-zone wins there, as the first by name"
            )
        ]

    def test_no_tie_with_itself_nor_apart(self) -> None:
        others = (config("default"), config("b-zone", nodeSelector={"matchLabels": {"zone": "b"}}))
        assert warnings(written(nodeSelector={"matchLabels": {"zone": "a"}}), nodes=NODES, configs=others) == []


class TestServicesLeftOutside:
    SERVICES = (node_port("in", 30080), node_port("out", 32000, 30081), node_port("health", health=32001))

    def test_they_are_named_with_their_ports(self) -> None:
        assert warnings(written(nodePortRange="30000-31999"), nodes=NODES, services=self.SERVICES) == [
            (
                "spec.nodePortRange: Services with node ports outside: 2: shop/health (32001), shop/out (32000); "
                "these go on answering, and updates that leave them alone are admitted"
            )
        ]

    def test_only_what_changes_is_told(self) -> None:
        now = (config("default", nodePortRange="30000-31999"),)
        same = written(nodePortRange="30000-31999", priority=5)
        assert warnings(same, written(), nodes=NODES, configs=now, services=self.SERVICES) == []
        smaller = written(nodePortRange="30081-31999")
        told = warnings(smaller, written(), nodes=NODES, configs=now, services=self.SERVICES)
        assert "outside: 1: shop/in (30080);" in told[0]

    def test_namespaces_have_their_own(self) -> None:
        own = {"namespaceSelector": {"matchLabels": {"team": "shop"}}, "range": "32000-32767"}
        new = written(nodePortRanges=[own])
        picture = {"nodes": NODES, "namespaces": {"shop": {"team": "shop"}}, "services": self.SERVICES}
        assert "outside: 2: shop/in (30080), shop/out (30081);" in warnings(new, **picture)[0]

    def test_many_are_counted(self) -> None:
        services = tuple(node_port(f"s{number:03}", 32000 + number) for number in range(200))
        told = warnings(written(nodePortRange="30000-31999"), nodes=NODES, services=services)[0]
        assert "outside: 200:" in told
        assert "s004 (32004) and 195 more;" in told
        assert len(told) < 400

    def test_one_that_no_node_gets_leaves_nobody_outside(self) -> None:
        others = (config("strong", priority=10),)
        told = warnings(written(nodePortRange="1-2"), nodes=NODES, configs=others, services=self.SERVICES)
        assert len(told) == 1

    def test_before_there_is_a_node(self) -> None:
        assert len(warnings(written(nodePortRange="1-2"), services=self.SERVICES)) == 1
