"""The operator's picture of the cluster."""

from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from pointsman.controller.view import View
from pointsman.model.objects import Endpoint, EndpointSlice, Namespace, Node, ObjectKey, Service, ServicePort
from support.fleet import configuration, web

WEB = ObjectKey("Service", "shop", "web")


def part(name: str, service: str, *nodes: str, ready: bool = True) -> EndpointSlice:
    endpoints = tuple(Endpoint(f"10.0.0.{index + 1}", ready, node=node) for index, node in enumerate(nodes))
    return EndpointSlice("shop", name, service, endpoints=endpoints)


def test_node_ports_have_users_until_they_go() -> None:
    view = View()
    view.put(web("b", node_port=30001))
    view.put(web("a", node_port=30001))
    assert view.node_port_users(30001, "tcp") == ("shop/a", "shop/b")
    assert view.node_port_users(30001, "udp") == ()
    view.put(web("a", node_port=30002))
    view.remove(ObjectKey("Service", "shop", "b"))
    assert view.node_port_users(30001, "tcp") == ()
    assert [each.name for each in view.node_port_services()] == ["a"]


def test_a_form_has_the_version_at_which_it_changed_last() -> None:
    view = View()
    view.put(web(), 5, "one")
    view.put(web(), 9, "one")
    entry = view.catalog.entries["shop/web"]
    assert (entry.version, entry.form_version) == (9, 5)
    view.put(web(node_port=30001), 7, "one")
    assert view.service(WEB) == web()
    view.put(web(), 10, "another")
    assert entry.form_version == 10


def test_what_is_older_than_the_answer_to_a_write_is_left_out() -> None:
    view = View()
    view.put(configuration(generation=2), 20)
    view.put(configuration(generation=1), 10)
    assert view.configs["default"].generation == 2
    view.remove(ObjectKey("ProxyConfig", "", "default"), 15)
    assert "default" in view.configs
    view.remove(ObjectKey("ProxyConfig", "", "default"), 21)
    assert view.configs == {}
    assert view.effective_configs() == ()


def test_slices_count_for_their_service_and_their_nodes() -> None:
    view = View()
    view.put(part("web-1", "web", "node-1", "node-1", "node-2"), 5)
    view.put(part("web-2", "web", "node-2", ready=False), 6)
    assert view.catalog.ready_endpoints() == {"node-1": 2, "node-2": 1}
    view.put(part("web-1", "other", "node-1"), 7)
    assert view.catalog.entries["shop/web"].slices_version == 7
    assert view.catalog.entries["shop/other"].slices_version == 7
    for name in ("web-1", "web-2"):
        view.remove(ObjectKey("EndpointSlice", "shop", name), 8)
    assert view.catalog.ready_endpoints() == {}
    assert view.catalog.entries == {}
    assert view.take_dirty() == frozenset()


def test_dirty_is_what_changed() -> None:
    view = View()
    view.put(web(), 1)
    assert view.take_dirty() == {"shop/web"}
    view.put(web(), 2)
    assert view.take_dirty() == frozenset()
    view.put_condition(WEB, "True")
    view.put(part("web-1", "web", "node-1"), 3)
    assert view.take_dirty() == {"shop/web"}


def test_a_condition_that_is_older_than_the_answer_to_a_write_is_left_out() -> None:
    view = View()
    view.put(web(), 5)
    view.put_condition(WEB, "True", 9)
    view.put(web(), 7)
    view.put_condition(WEB, "False", 7)
    assert view.catalog.entries["shop/web"].condition == "True"
    view.put(web(node_port=30001), 9)  # the form that was written upon, and is told of only now
    assert view.service(WEB) == web(node_port=30001)
    view.put_condition(ObjectKey("Service", "shop", "none"), "True", 9)
    assert "shop/none" not in view.catalog.entries


def test_a_revision_is_a_change() -> None:
    view = View()
    view.put(Node("node-1"), uid="one")
    view.put(web(), 1)
    before = view.revision
    view.put(Node("node-1"), uid="one")
    view.put(web(), 2)
    view.remove(ObjectKey("Node", "", "node-2"))
    view.set_silent(())
    assert view.revision == before
    view.set_silent({"node-1"})
    assert view.revision == before + 1


def test_effective_configurations_follow_nodes_and_labels() -> None:
    view = View()
    view.put(configuration("all"))
    view.put(configuration("edge", priority=1, nodeSelector={"matchLabels": {"edge": "yes"}}, nodePortRange="1-9"))
    assert [each.name for each in view.effective_configs()] == ["all", "edge"]
    view.put(Node("node-1"))
    assert [each.name for each in view.effective_configs()] == ["all"]
    view.put(Node("node-1", (("edge", "yes"),)))
    assert [(name, str(each)) for name, each in view.node_port_ranges("shop")] == [("edge", "1-9")]
    view.remove(ObjectKey("ProxyConfig", "", "edge"))
    assert [name for name, _ in view.node_port_ranges("shop")] == ["all"]


def test_keys_are_what_is_known() -> None:
    view = View()
    for obj in (web(), part("web-1", "web", "node-1"), Node("node-1"), Namespace("shop"), configuration()):
        view.put(obj)
    assert view.keys("Service") == ("shop/web",)
    assert view.keys("EndpointSlice") == ("shop/web-1",)
    assert view.keys("Endpoints") == ()
    assert view.keys("Node") == ("node-1",)
    assert view.keys("Namespace") == ("shop",)
    assert view.keys("ProxyConfig") == ("default",)


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["service", "slice", "no service", "no slice"]),
        st.integers(0, 2),
        st.integers(0, 2),
        st.integers(0, 3),
    ),
    max_size=40,
)


@given(OPERATIONS)
def test_counts_and_indices_are_those_of_what_is_left(operations: list[tuple[str, int, int, int]]) -> None:
    """However things come and go: the same as if only what is left had ever been put in."""
    view = View()
    services: dict[str, Service] = {}
    slices: dict[str, EndpointSlice] = {}
    for what, name, owner, number in operations:
        match what:
            case "service":
                services[f"s{name}"] = web(f"s{name}", node_port=30000 + number if number else 0)
                view.put(services[f"s{name}"])
            case "slice":
                slices[f"e{name}"] = part(f"e{name}", f"s{owner}", *(f"node-{index}" for index in range(number)))
                view.put(slices[f"e{name}"])
            case "no service":
                services.pop(f"s{name}", None)
                view.remove(ObjectKey("Service", "shop", f"s{name}"))
            case _:
                slices.pop(f"e{name}", None)
                view.remove(ObjectKey("EndpointSlice", "shop", f"e{name}"))
    fresh = View()
    for obj in (*services.values(), *slices.values()):
        fresh.put(obj)
    assert view.catalog.ready_endpoints() == fresh.catalog.ready_endpoints()
    assert view.catalog.entries.keys() == fresh.catalog.entries.keys()
    assert view.catalog.node_port_keys == fresh.catalog.node_port_keys
    for port in range(30000, 30004):
        assert view.node_port_users(port, "tcp") == fresh.node_port_users(port, "tcp")


def test_ten_thousand_services_are_small() -> None:
    tracemalloc.start()
    try:
        view = View()
        for number in range(10_000):
            name = f"service-{number}"
            address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
            ports = (ServicePort(80, "http", node_port=20000 + number),)
            view.put(Service("shop", name, "NodePort", (address,), ports=ports), number, f"{number:036}")
            endpoints = tuple(
                Endpoint(f"10.1.0.{each}", node=f"node-{each}", pod=f"{name}-{each}") for each in range(3)
            )
            view.put(EndpointSlice("shop", f"{name}-x", name, endpoints=endpoints), number)
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used < 40 * 2**20
