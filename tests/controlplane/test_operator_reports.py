"""What ProxyConfigs, events and `kubectl get` tell of a live cluster, and which nodes get which ProxyConfig."""

from __future__ import annotations

import re
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from support.operated import (
    CONFIGS,
    PROXIES,
    config,
    configured,
    is_complete,
    proxy,
    restore,
    said,
    specs,
    wait_until_complete,
)
from support.scenes import PATIENCE, configuration, made, service
from support.web import web

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman.lab.controlplane.cluster import LiveCluster
    from support.scenes import Document

SCHEDULER = "pointsman.dev/scheduler"


@contextmanager
def away(cluster: LiveCluster) -> Iterator[None]:
    """Do without the operator, and so without its webhook, for a while."""
    for replica in cluster.operators.replicas:
        replica.kill()
    try:
        cluster.operators.publish()
        yield
    finally:
        for replica in cluster.operators.replicas:
            replica.start()
        for replica in cluster.operators.replicas:
            replica.wait_until_ready()
        cluster.operators.publish()
        cluster.operators.wait_for_webhook()


def problems(cluster: LiveCluster, *owners: str) -> dict[tuple[str, str], str]:
    """Return what the ProxyConfig says is wrong with some Services: messages by Service and field."""
    wanted = {f"Service default/{name}" for name in owners}
    told = config(cluster).get("status", {}).get("problems", [])
    return {(each["object"], each["field"]): each["message"] for each in told if each["object"] in wanted}


def events(cluster: LiveCluster, name: str) -> set[tuple[str, str, str]]:
    """Return type, reason and reporter of the events on a Service."""
    found = cluster.plane.api.get("/apis/events.k8s.io/v1/namespaces/default/events")["items"]
    return {
        (each["type"], each["reason"], each.get("reportingController", ""))
        for each in found
        if each["regarding"]["name"] == name and each["regarding"]["kind"] == "Service"
    }


def node_port(name: str, port: int) -> Document:
    document = service(name, type="NodePort")
    document["spec"]["ports"][0]["nodePort"] = port
    return document


def test_what_nobody_refused_is_told_until_it_is_mended(cluster: LiveCluster) -> None:
    unknown = service("unscheduled")
    unknown["metadata"]["annotations"] = {SCHEDULER: "lc"}
    outside = ("Service default/outside", "spec.ports[0].nodePort")
    scheduler = ("Service default/unscheduled", f"metadata.annotations[{SCHEDULER}]")
    owners = ("outside", "unscheduled")
    with ExitStack() as stack:
        with away(cluster):
            stack.enter_context(made(cluster, node_port("outside", 20123), unknown))
        cluster.wait_until(
            lambda: problems(cluster, *owners).keys() == {outside, scheduler}, "both problems", patience=PATIENCE
        )
        told = problems(cluster, *owners)
        assert told[outside] == "20123 is outside of the range 30000-32767; it is served all the same"
        assert told[scheduler].startswith('"lc" is no scheduler of mode nftables (has random, rr, ')
        reporter = "pointsman.dev/operator"
        cluster.wait_until(
            lambda: (
                ("Warning", "NodePortOutOfRange", reporter) in events(cluster, "outside")
                and ("Warning", "SchedulerNotSupported", reporter) in events(cluster, "unscheduled")
            ),
            lambda: f"the events; there are {[events(cluster, name) for name in owners]}",
            patience=PATIENCE,
        )
        cluster.plane.kubectl("patch", "service/outside", "-p", '{"spec":{"ports":[{"port":80,"nodePort":30123}]}}')
        cluster.plane.kubectl("annotate", "service/unscheduled", f"{SCHEDULER}-")
        cluster.wait_until(lambda: problems(cluster, *owners) == {}, "no problem any more", patience=PATIENCE)


def test_a_range_that_becomes_narrow_tells_of_ports_that_were_good(cluster: LiveCluster) -> None:
    with made(cluster, node_port("narrowed", 30200)):
        with configured(cluster, nodePortRange="31000-31999"):
            cluster.wait_until(lambda: problems(cluster, "narrowed") != {}, "the problem", patience=PATIENCE)
            (said_of_it,) = problems(cluster, "narrowed").values()
            assert said_of_it.startswith("30200 is outside of the range 31000-31999")
        cluster.wait_until(lambda: problems(cluster, "narrowed") == {}, "no problem any more", patience=PATIENCE)


def columns(text: str) -> list[dict[str, str]]:
    """Read a table of kubectl by the places of its headlines."""
    head, *rows = text.splitlines()
    starts = [match.start() for match in re.finditer(r"\S+", head)]
    spans = list(zip(starts, [*starts[1:], None], strict=True))
    return [{head[a:b].strip(): row[a:b].strip() for a, b in spans} for row in rows]


def masked(row: dict[str, str]) -> dict[str, str]:
    return {name: re.sub(r"^(\d+[smhd])+$", "<time>", value) for name, value in row.items()}


def test_kubectl_get_is_the_dashboard(cluster: LiveCluster) -> None:
    with configured(cluster, scheduler="rr"):
        shown = [masked(row) for row in columns(cluster.plane.kubectl("get", "pxc"))]
        assert shown == [
            {
                "NAME": "default",
                "MODE": "nftables",
                "SCHEDULER": "rr",
                "READY": "3/3",
                "ROLLOUT": "Complete",
                "PROBLEMS": "0",
                "AGE": "<time>",
            }
        ]
        rows = [masked(row) for row in columns(cluster.plane.kubectl("get", "npx"))]
        assert [row["NAME"] for row in rows] == sorted(cluster.nodes)
        for row in rows:
            assert int(row.pop("SERVICES")) >= 1
            assert int(row.pop("ENDPOINTS")) >= 1
            assert row == {
                "NAME": row["NAME"],
                "MODE": "nftables",
                "READY": "True",
                "REASON": "Programmed",
                "PROBLEMS": "0",
                "CONFIG": "default",
                "LAST-SYNC": "<time>",
                "AGE": "<time>",
            }


def problems_of(cluster: LiveCluster, name: str) -> list[str]:
    """Return what a ProxyConfig says is wrong."""
    return [each["message"] for each in config(cluster, name).get("status", {}).get("problems", ())]


def special(name: str, priority: int, **spec: object) -> Document:
    selector = {"matchLabels": {"pool": "edge"}}
    return {
        "apiVersion": "pointsman.dev/v1alpha1",
        "kind": "ProxyConfig",
        "metadata": {"name": name},
        "spec": {**spec, "nodeSelector": selector, "priority": priority},
    }


def wait_for_configs(cluster: LiveCluster, **wanted: str) -> None:
    """Wait until each node has the NodeProxy of a ProxyConfig, and its agent has that in force."""

    def done() -> bool:
        found = specs(cluster, "proxyConfig")
        return found == wanted and all(
            proxy(cluster, name)["status"].get("observedGeneration") == proxy(cluster, name)["metadata"]["generation"]
            for name in wanted
        )

    cluster.wait_until(done, lambda: f"{wanted}; it is {specs(cluster, 'proxyConfig')}", patience=PATIENCE)


def test_a_label_moves_a_live_node_to_another_configuration(cluster: LiveCluster) -> None:
    everywhere = dict.fromkeys(cluster.nodes, "default")
    base = configuration(cluster)["spec"]
    made_configs = [special(name, priority, **base) for name, priority in (("b-edge", 7), ("a-edge", 7), ("low", 1))]
    label = ("label", "--overwrite", "node/node02")
    try:
        for document in made_configs:
            cluster.plane.api.create(CONFIGS, document)
        cluster.wait_until(
            lambda: said(config(cluster, "a-edge"), "Ready") == ("False", "NoNodes"), "no nodes", patience=PATIENCE
        )
        cluster.plane.kubectl(*label, "pool=edge")
        wait_for_configs(cluster, **everywhere | {"node02": "a-edge"})
        assert wait_until_complete(cluster, "a-edge")["status"]["nodes"]["summary"] == "1/1"
        assert wait_until_complete(cluster)["status"]["nodes"]["summary"] in ("2/2", "3/3")
        cluster.wait_until(lambda: config(cluster)["status"]["nodes"]["summary"] == "2/2", "2/2", patience=PATIENCE)
        lost = ["no node gets it: ProxyConfig a-edge wins on every node that it selects"]
        cluster.wait_until(
            lambda: problems_of(cluster, "b-edge") == lost,
            lambda: f"{lost}; it is {problems_of(cluster, 'b-edge')}",
            patience=PATIENCE,
        )
        for gone, heir in (("a-edge", "b-edge"), ("b-edge", "low"), ("low", "default")):
            cluster.plane.api.delete(f"{CONFIGS}/{gone}")
            wait_for_configs(cluster, **everywhere | {"node02": heir})
        cluster.plane.api.create(CONFIGS, made_configs[0])
        wait_for_configs(cluster, **everywhere | {"node02": "b-edge"})
        cluster.plane.kubectl(*label, "pool-")
        wait_for_configs(cluster, **everywhere)
    finally:
        for document in made_configs:
            cluster.plane.api.delete(f"{CONFIGS}/{document['metadata']['name']}")
        cluster.plane.kubectl(*label, "pool-")
        restore(cluster)


def test_a_node_that_nothing_selects_keeps_what_it_had(cluster: LiveCluster) -> None:
    apart = {"matchExpressions": [{"key": "pool", "operator": "DoesNotExist"}]}
    label = ("label", "--overwrite", "node/node02")
    with web(cluster, "kept", replicas=2) as running:
        try:
            cluster.plane.kubectl(*label, "pool=apart")
            with configured(cluster, nodeSelector=apart, scheduler="rr"):
                cluster.wait_until(
                    lambda: cluster.plane.api.find(f"{PROXIES}/node02") is None, "no NodeProxy", patience=PATIENCE
                )
                cluster.wait_until(lambda: is_complete(config(cluster)), "two nodes", patience=PATIENCE)
                running.scale(3)
                cluster.wait_for_pods("app=kept", 3)
                running.until_all(running.pods(), patience=PATIENCE)
        finally:
            cluster.plane.kubectl(*label, "pool-")
            restore(cluster)
        wait_for_configs(cluster, **dict.fromkeys(cluster.nodes, "default"))
