"""The rules over the operator's own picture of the cluster."""

from __future__ import annotations

from pointsman.controller.view import View
from pointsman.model.objects import Namespace, Node, Service, ServicePort
from support.pictures import ask, config, port, review, service


def view() -> View:
    made = View()
    own = {"namespaceSelector": {"matchLabels": {"team": "shop"}}, "range": "31000-31099"}
    made.put(config("default", nodePortRanges=[own]))
    made.put(config("unused", nodePortRange="1-2", nodeSelector={"matchLabels": {"zone": "none"}}))
    made.put(Node("n1", labels=(("zone", "a"),)))
    made.put(Service("other", "api", "NodePort", ports=(ServicePort(80, node_port=31007),)))
    return made


def test_ranges_follow_nodes_and_namespaces() -> None:
    picture = view()
    assert ask(review(service(port(80, 30080))), picture).allowed
    picture.put(Namespace("shop", labels=(("team", "shop"),)))
    assert ask(review(service(port(80, 30080))), picture).causes[0].endswith("range of valid ports is 31000-31099")
    assert ask(review(service(port(80, 31001))), picture).allowed


def test_users_of_ports() -> None:
    assert ask(review(service(port(80, 31007))), view()).causes[0].endswith("already allocated, to Service other/api")
    assert ask(review(service(port(80, 31007, "UDP"))), view()).allowed


def test_services_that_a_configuration_leaves_outside() -> None:
    new = {"metadata": {"name": "default"}, "spec": {"nodePortRange": "30000-30999"}}
    answer = ask(review(new, {}, kind="ProxyConfig"), view())
    assert answer.allowed
    assert "1: other/api (31007)" in answer.warnings[0]
