"""The webhook as users of kubectl meet it: a real API server asks a real operator."""

from __future__ import annotations

import base64
import datetime as dt
import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from pointsman.api.names import WEBHOOK_SERVICE
from pointsman.controller.admission.bundle import CONFIGURATIONS, secret_document
from pointsman.controller.admission.certificates import end_of, renewed
from pointsman.lab.controlplane.cluster import POD_CIDR, proxy_config
from pointsman.lab.controlplane.operators import NAMESPACE
from support.operated import replace
from support.scenes import PATIENCE
from support.web import web

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from pointsman.lab.controlplane.cluster import LiveCluster

CONFIGURATION = f"{CONFIGURATIONS}/pointsman"
SECRET = f"/api/v1/namespaces/{NAMESPACE}/secrets/pointsman-webhook-tls"
RANGE_WORDS = "provided port is not in the valid range. The range of valid ports is 30000-32767"
SERVICES = "/api/v1/namespaces/default/services"


def service(name: str, *ports: int | None, namespace: str = "default", scheduler: str = "") -> dict[str, Any]:
    """Write a Service; None is a node port that the API server is to choose."""
    annotations = {"pointsman.dev/scheduler": scheduler} if scheduler else {}
    written = [
        {"name": f"p{number}", "port": 80 + number} | ({"nodePort": port} if port is not None else {})
        for number, port in enumerate(ports)
    ]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace, "annotations": annotations},
        "spec": {"type": "NodePort", "ports": written},
    }


def kubectl(cluster: LiveCluster, *arguments: str, given: object = None) -> subprocess.CompletedProcess[str]:
    return cluster.plane.try_kubectl(*arguments, stdin=json.dumps(given) if given is not None else None)


def apply(cluster: LiveCluster, *objects: dict[str, Any], dry_run: bool = False) -> tuple[bool, str]:
    """Apply objects; returns whether it went well, and what kubectl said on standard error."""
    options = ["--dry-run=server"] if dry_run else []
    items = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
    done = kubectl(cluster, "apply", "-f", "-", *options, given=items)
    return done.returncode == 0, done.stderr.strip()


@contextmanager
def configured(cluster: LiveCluster, **spec: object) -> Iterator[str]:
    """Change the ProxyConfig ``default`` for a while; yields what kubectl says of it."""
    base: dict[str, object] = {"podCIDRs": [POD_CIDR], "serviceCIDRs": [cluster.plane.settings.service_cidr]}
    try:
        good, said = apply(cluster, proxy_config("default", base | spec))
        assert good, said
        yield said
    finally:
        cluster.plane.apply([proxy_config("default", base | {"nodePortRange": "30000-32767"})])
        replace(cluster)


@contextmanager
def removed(cluster: LiveCluster, *paths: str) -> Iterator[None]:
    """Delete objects at the end."""
    try:
        yield
    finally:
        for path in paths:
            cluster.plane.api.delete(path)


def asks_the_webhook(cluster: LiveCluster) -> bool:
    """Tell whether a Service that only the webhook refuses is refused by it."""
    good, said = apply(cluster, service("asked", 58080), dry_run=True)
    return not good and RANGE_WORDS in said


def test_a_refusal_reads_like_the_api_servers_own(cluster: LiveCluster) -> None:
    good, said = apply(cluster, service("refused", 58080))
    assert not good
    assert said == f'The Service "refused" is invalid: spec.ports[0].nodePort: Invalid value: 58080: {RANGE_WORDS}'
    assert cluster.plane.api.find(f"{SERVICES}/refused") is None


def test_everything_that_is_wrong_comes_at_once(cluster: LiveCluster) -> None:
    good, said = apply(cluster, service("refused", 58080, 30777, 1024, scheduler="lc"))
    assert not good
    assert said.splitlines() == [
        'The Service "refused" is invalid: ',
        f"* spec.ports[0].nodePort: Invalid value: 58080: {RANGE_WORDS}",
        f"* spec.ports[2].nodePort: Invalid value: 1024: {RANGE_WORDS}",
        (
            '* metadata.annotations[pointsman.dev/scheduler]: Unsupported value: "lc": '
            'supported values: "random", "rr", "wrr", "sh", "dh", "mh"'
        ),
    ]


def test_a_port_that_the_api_server_chose_comes_with_advice(cluster: LiveCluster) -> None:
    for number in range(20):  # it chooses from 1-65535, and may find one that is good
        path = f"{SERVICES}/chosen-{number}"
        with removed(cluster, path):
            good, said = apply(cluster, service(f"chosen-{number}", None))
        if not good:
            assert "the API server, whose range is wider, chose this one: write a free one yourself, such as 3" in said
            return
    pytest.fail("the API server chose a port of 30000-32767 twenty times")


def test_a_dry_run_changes_nothing_and_knows_made_up_ports(cluster: LiveCluster) -> None:
    assert apply(cluster, service("dry", None), dry_run=True) == (True, "")
    assert not apply(cluster, service("dry", 58080), dry_run=True)[0]
    assert cluster.plane.api.find(f"{SERVICES}/dry") is None


def test_what_an_update_does_not_touch_passes_with_a_warning(cluster: LiveCluster) -> None:
    with removed(cluster, f"{SERVICES}/old"):
        with configured(cluster, nodePortRange="1-65535"):
            assert apply(cluster, service("old", 58080)) == (True, "")
            config = proxy_config("default", {"podCIDRs": [POD_CIDR]})

            def tells() -> bool:
                good, said = apply(cluster, config, dry_run=True)
                assert good
                return "Services with node ports outside: 1: default/old (58080)" in said

            cluster.wait_until(tells, "the operator to tell of the Service", patience=PATIENCE)

        def warned() -> bool:
            done = kubectl(cluster, "annotate", "--overwrite", "service", "old", f"at={dt.datetime.now(dt.UTC)}")
            assert done.returncode == 0, done.stderr
            return f"Warning: spec.ports[0].nodePort: Invalid value: 58080: {RANGE_WORDS}; it was so" in done.stderr

        cluster.wait_until(warned, "the warning of an old port")
        change = {"spec": {"ports": [{"port": 80, "nodePort": 58081}]}}
        done = kubectl(cluster, "patch", "service", "old", "-p", json.dumps(change))
        assert f"Invalid value: 58081: {RANGE_WORDS}" in done.stderr
        assert done.returncode == 1


@pytest.mark.parametrize("name", ["edge-1", "edge-2", "edge-3"])
def test_a_namespace_and_its_service_in_one_file_have_its_own_range(cluster: LiveCluster, name: str) -> None:
    own = {"namespaceSelector": {"matchLabels": {"team": "edge"}}, "range": "31000-31009"}
    home = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"team": "edge"}}}

    def refused() -> bool:
        return "ports is 31000-31009" in apply(cluster, service("other", 30500, namespace=name), dry_run=True)[1]

    with (
        removed(cluster, f"/api/v1/namespaces/{name}/services/web", f"/api/v1/namespaces/{name}"),
        configured(cluster, nodePortRange="30000-30999", nodePortRanges=[own]),
    ):
        good, said = apply(cluster, home, service("web", 31001, namespace=name))
        assert good, said
        cluster.wait_until(refused, "a port outside of the namespace's range to be refused")


def test_a_service_that_is_replaced_keeps_its_port(cluster: LiveCluster) -> None:
    with removed(cluster, f"{SERVICES}/replaced", f"{SERVICES}/heir"):
        assert apply(cluster, service("replaced", 30888))[0]
        for name in ("replaced", "heir", "replaced", "heir", "replaced"):
            kubectl(cluster, "delete", "service", "replaced", "heir", "--ignore-not-found")
            good, said = apply(cluster, service(name, 30888))
            assert good, said


def test_a_wiped_bundle_is_back_soon(cluster: LiveCluster) -> None:
    before = cluster.plane.api.get(CONFIGURATION)
    for webhook in before["webhooks"]:
        webhook["clientConfig"].pop("caBundle")
    cluster.plane.api.replace(CONFIGURATION, before)
    cluster.wait_until(lambda: asks_the_webhook(cluster), "the webhook to be trusted again", patience=30)
    bundles = {hook["clientConfig"]["caBundle"] for hook in cluster.plane.api.get(CONFIGURATION)["webhooks"]}
    assert bundles == {cluster.plane.api.get(SECRET)["data"]["ca.crt"]}


def test_an_expired_certificate_is_replaced_without_a_restart(cluster: LiveCluster) -> None:
    pids = [replica.daemon.pid for replica in cluster.operators.replicas]
    hosts = (f"{WEBHOOK_SERVICE}.{NAMESPACE}.svc",)
    expired = renewed(None, hosts, dt.datetime.now(dt.UTC) - dt.timedelta(days=400))
    cluster.plane.api.patch(SECRET, {"data": secret_document(NAMESPACE, expired)["data"]})

    def is_new() -> bool:
        stored = base64.b64decode(cluster.plane.api.get(SECRET)["data"]["tls.crt"])
        end = end_of(expired._replace(certificate=stored, key=expired.key)) if stored == expired.certificate else None
        return end is None and asks_the_webhook(cluster)

    cluster.wait_until(is_new, "a new certificate", patience=40)
    assert [replica.daemon.pid for replica in cluster.operators.replicas] == pids


@contextmanager
def without_operator(cluster: LiveCluster, policy: str) -> Iterator[None]:
    """Stop every replica, with a failure policy in force."""
    change = [{"op": "replace", "path": f"/webhooks/{index}/failurePolicy", "value": policy} for index in (0, 1)]
    back = [{**each, "value": "Ignore"} for each in change]
    kubectl(cluster, "patch", "validatingwebhookconfiguration", "pointsman", "--type=json", "-p", json.dumps(change))
    for replica in cluster.operators.replicas:
        replica.kill()
    try:
        cluster.operators.publish()
        yield
    finally:
        kubectl(cluster, "patch", "validatingwebhookconfiguration", "pointsman", "--type=json", "-p", json.dumps(back))
        for replica in cluster.operators.replicas:
            replica.start()
        for replica in cluster.operators.replicas:
            replica.wait_until_ready()
        cluster.operators.publish()
        cluster.operators.wait_for_webhook()


def test_a_dead_webhook_stops_nobody_by_default(cluster: LiveCluster) -> None:
    paths = [f"{SERVICES}/{name}" for name in ("unjudged", "good")]
    with removed(cluster, *paths), without_operator(cluster, "Ignore"):
        assert apply(cluster, service("good", 30999)) == (True, "")
        assert apply(cluster, service("unjudged", 58080)) == (True, "")


def test_a_strict_failure_policy_spares_what_the_cluster_heals_with(cluster: LiveCluster) -> None:
    spared = ("kube-system", NAMESPACE)
    paths = [f"/api/v1/namespaces/{namespace}/services/healing" for namespace in spared]
    with removed(cluster, *paths), without_operator(cluster, "Fail"):

        def strict() -> bool:
            good, said = apply(cluster, service("good", 30999), dry_run=True)
            return not good and 'failed calling webhook "services.pointsman.dev"' in said

        cluster.wait_until(strict, "the strict policy")
        for number, namespace in enumerate(spared):
            good, said = apply(cluster, service("healing", 58080 + number, namespace=namespace))
            assert good, said
            good, said = apply(cluster, service("healing", 58082 + number, namespace=namespace))
            assert good, said


def test_a_cluster_whose_operator_is_gone_heals(cluster: LiveCluster) -> None:
    node = cluster.nodes["node02"]
    with web(cluster, "alone", replicas=2) as alone, without_operator(cluster, "Fail"):
        lost = min(alone.pods())
        kubectl(cluster, "delete", "pod", lost)
        cluster.wait_until(lambda: len(alone.pods() - {lost}) == 2, "another Pod")
        node.agent.kill()
        node.agent.start()
        node.agent.wait_until_ready()
        alone.scale(3)
        cluster.wait_for_pods("app=alone", 3)
        alone.until_all(alone.pods())
        assert lost not in alone.pods()
