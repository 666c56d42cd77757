"""The chart on a real API server, installed, upgraded and uninstalled by the real helm.

There are no kubelets, so that hooks are left out: their Jobs would never end.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import time
from typing import TYPE_CHECKING, Any, Final

import pytest

from pointsman.agent.lease import LeaseKeeper
from pointsman.controller.admission.bundle import CONFIGURATIONS, bundle_patch
from pointsman.lab.components.build import provide
from pointsman.lab.controlplane import documents, kubeconfigs
from pointsman.lab.controlplane.plane import ControlPlane
from pointsman.process.clock import SystemClock
from pointsman.sources.apiserver.access import Access
from pointsman.sources.apiserver.client import ApiError, connect
from support.charts import CHART, Chart

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pointsman.model.problems import Problem

NAMESPACE: Final = "somewhere"
OWN: Final = "node-1"
OTHER: Final = "node-2"
VALUES: Final = ("--set", "apiServer.host=192.0.2.10")
WEBHOOK: Final = f"{CONFIGURATIONS}/pointsman"
DEFAULT: Final = "/apis/pointsman.dev/v1alpha1/proxyconfigs/default"
STATUS: Final = "/apis/pointsman.dev/v1alpha1/nodeproxies/{}/status"
PATIENCE: Final = 30.0


class Release:
    """Helm on a control plane of its own, with two nodes."""

    def __init__(self, plane: ControlPlane, files: Path) -> None:
        self.plane = plane
        self._files = files
        self.program = provide(("helm",), lambda _: None)["helm"]
        for number, name in enumerate((OWN, OTHER), start=1):
            plane.api.create("/api/v1/nodes", documents.node(name, [f"172.16.0.{number}"], [], "2026-01-01T00:00:00Z"))

    def helm(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run helm as administrator, whatever comes of it."""
        command = [str(self.program), *arguments, f"--kubeconfig={self.plane.kubeconfig}"]
        homes = {name: str(self._files) for name in ("HOME", "HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME")}
        with self.plane.namespace.entered():
            return subprocess.run(command, env={**os.environ, **homes}, capture_output=True, text=True, check=False)

    def upgrade(self, *options: str) -> str:
        """Install or upgrade the release; return what helm says."""
        done = self.try_upgrade(*options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def try_upgrade(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Install or upgrade the release, whatever comes of it."""
        place = ("--namespace", NAMESPACE, "--create-namespace", "--no-hooks")
        return self.helm("upgrade", "--install", "pointsman", str(CHART), *place, *VALUES, *options)

    def agent_of(self, node: str) -> Path:
        """Write a kubeconfig with the token that the agent's Pod on a node has."""
        pods = f"/api/v1/namespaces/{NAMESPACE}/pods"
        name = f"agent-on-{node}"
        spec = {
            "nodeName": node,
            "serviceAccountName": "pointsman-agent",
            "containers": [{"name": "agent", "image": "none"}],
        }
        pod = self.plane.api.find(f"{pods}/{name}") or self.plane.api.create(
            pods, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        )
        bound = {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": pod["metadata"]["uid"]}
        return self.token(name, {"boundObjectRef": bound})

    def token(self, name: str, spec: dict[str, Any]) -> Path:
        """Write a kubeconfig with a token of the agents' account."""
        path = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/pointsman-agent/token"
        answer = self.plane.api.create(path, {"spec": {"expirationSeconds": 3600, **spec}})
        token, kubeconfig = self._files / f"{name}.token", self._files / f"{name}.kubeconfig"
        token.write_text(answer["status"]["token"], "ascii")
        kubeconfig.write_text(kubeconfigs.with_token_file(self.plane.authority.certificate, token), "utf-8")
        return kubeconfig

    def write_status(self, kubeconfig: Path, node: str) -> None:
        """Write the status of a node's NodeProxy as an agent does."""

        async def write() -> None:
            async with connect(Access(kubeconfig=kubeconfig)) as client:
                await client.patch(STATUS.format(node), {"status": {"services": 1}})

        with self.plane.namespace.entered():
            asyncio.run(write())

    def renew_lease(self, kubeconfig: Path, node: str) -> list[Problem]:
        """Renew a node's Lease as an agent does; return what is wrong."""
        problems: list[Problem] = []

        async def renew() -> None:
            async with connect(Access(kubeconfig=kubeconfig)) as client:
                keeper = LeaseKeeper(
                    client,
                    node,
                    namespace=NAMESPACE,
                    on_problems=problems.extend,
                    clock=SystemClock(),
                    chance=random.SystemRandom(),
                )
                await keeper.renew()

        with self.plane.namespace.entered():
            asyncio.run(renew())
        return problems


@pytest.fixture(scope="module")
def release(ground: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:  # noqa: ARG001 - asked for first
    with ControlPlane() as plane:
        made = Release(plane, tmp_path_factory.mktemp("helm"))
        made.upgrade()
        for node in (OWN, OTHER):
            proxy = {"apiVersion": "pointsman.dev/v1alpha1", "kind": "NodeProxy", "metadata": {"name": node}}
            plane.api.create("/apis/pointsman.dev/v1alpha1/nodeproxies", {**proxy, "spec": {}})
        yield made


def until(condition: Any, what: str) -> None:  # noqa: ANN401 (a function)
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.2)


def test_the_api_server_takes_every_object(release: Release) -> None:
    config = release.plane.api.get(DEFAULT)
    assert config["spec"]["mode"] == "nftables"
    found = release.plane.api.get(f"/apis/apps/v1/namespaces/{NAMESPACE}/daemonsets/pointsman-agent")
    assert found["spec"]["template"]["spec"]["hostNetwork"] is True


def test_the_api_server_takes_what_switches_add(release: Release) -> None:
    values = {
        "apiServer": {"host": "fd00::1"},
        "image": {"pullSecrets": ["registry"]},
        "agent": {"fallbackConfig": True, "seLinuxOptions": {"type": "spc_t"}, "maxUnavailable": "25%"},
        "operator": {"hostNetwork": True, "extraEnv": [{"name": "A", "value": "b"}], "podAnnotations": {"a": "b"}},
        "networkPolicy": {"enabled": True, "apiServerCIDRs": ["192.0.2.10/32"]},
        "metrics": {"dashboard": {"enabled": True}},
    }
    rendered = Chart(release.program).render(values, namespace=NAMESPACE)
    assert {"NetworkPolicy", "ConfigMap", "Job"} <= {document["kind"] for document in rendered}
    # Hooks are among them, and a field that is not there is an error.
    options = ("--dry-run=server", "--server-side", "--force-conflicts", "--validate=strict")
    done = release.plane.try_kubectl("apply", *options, "-f", "-", stdin=rendered.text)
    assert done.returncode == 0, done.stderr
    assert "unknown" not in done.stderr


def test_the_notes_say_what_to_look_at(release: Release) -> None:
    said = release.upgrade("--set", "proxyConfig.spec.podCIDRs={10.244.0.0/16}")
    assert "kubectl get pxc,npx" in said
    assert "A cluster needs one Service proxy" in said
    assert "masqueraded" not in said
    assert "connections from outside of the cluster to a cluster IP are not masqueraded" in release.upgrade()


def test_an_upgrade_keeps_what_the_operator_wrote_into_the_webhook(release: Release) -> None:
    api = release.plane.api

    def bundles() -> list[str]:
        return [each["clientConfig"].get("caBundle", "") for each in api.get(WEBHOOK)["webhooks"]]

    with release.plane.namespace.entered():
        kubeconfig = release.plane.kubeconfig

        async def keep() -> None:
            async with connect(Access(kubeconfig=kubeconfig)) as client:
                authority = release.plane.authority.certificate
                await client.patch(WEBHOOK, bundle_patch(await client.get(WEBHOOK), authority), kind="json")

        asyncio.run(keep())
    kept = bundles()
    assert all(kept)
    release.upgrade("--set", "webhook.timeoutSeconds=7", "--set", "agent.verbose=true")
    assert [each["timeoutSeconds"] for each in api.get(WEBHOOK)["webhooks"]] == [7, 7]
    assert bundles() == kept
    release.upgrade()


def test_what_kubectl_changes_of_the_configuration_stays_or_is_a_conflict(release: Release) -> None:
    release.plane.kubectl("patch", "pxc", "default", "--type=merge", "-p", '{"spec":{"scheduler":"rr"}}')
    release.upgrade("--set", "proxyConfig.spec.syncPeriod=20s")
    spec = release.plane.api.get(DEFAULT)["spec"]
    assert (spec["scheduler"], spec["syncPeriod"]) == ("rr", "20s")
    done = release.try_upgrade("--set", "proxyConfig.spec.scheduler=sh")
    assert done.returncode != 0
    assert ".spec.scheduler" in done.stderr
    release.upgrade("--set", "proxyConfig.spec.scheduler=sh", "--force-conflicts")
    assert release.plane.api.get(DEFAULT)["spec"]["scheduler"] == "sh"


def test_the_configuration_can_be_taken_out_of_the_release(release: Release) -> None:
    release.plane.kubectl("annotate", "pxc", "default", "helm.sh/resource-policy=keep")
    release.upgrade("--set", "proxyConfig.create=false")
    assert release.plane.api.find(DEFAULT) is not None
    release.plane.kubectl("annotate", "pxc", "default", "helm.sh/resource-policy-")
    release.upgrade()


def test_a_second_release_is_refused(release: Release) -> None:
    done = release.helm(
        "install", "other", str(CHART), "--namespace", "other", "--create-namespace", *VALUES, "--no-hooks"
    )
    assert done.returncode != 0
    assert "cannot be imported into the current release" in done.stderr


def test_kube_proxy_that_runs_is_warned_of(release: Release) -> None:
    labels = {"k8s-app": "kube-proxy"}
    spec = {"containers": [{"name": "kube-proxy", "image": "none"}], "tolerations": [{"operator": "Exists"}]}
    pod = {"metadata": {"labels": labels}, "spec": spec}
    path = "/apis/apps/v1/namespaces/kube-system/daemonsets"
    proxy = {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "kube-proxy"}}
    release.plane.api.create(path, {**proxy, "spec": {"selector": {"matchLabels": labels}, "template": pod}})
    try:
        wanted = lambda: release.plane.api.get(f"{path}/kube-proxy")["status"]["desiredNumberScheduled"]  # noqa: E731
        until(lambda: wanted() == 2, "the controller counts no nodes")
        assert "WARNING: kube-proxy runs on this cluster's nodes, too (2 of them)" in release.upgrade()
        # What the notes say takes it out.
        out = '{"spec":{"template":{"spec":{"nodeSelector":{"pointsman.dev/kube-proxy":"true"}}}}}'
        release.plane.kubectl("-n", "kube-system", "patch", "daemonset", "kube-proxy", "-p", out)
        until(lambda: wanted() == 0, "kube-proxy still runs")
        assert "WARNING" not in release.upgrade()
    finally:
        release.plane.api.delete(f"{path}/kube-proxy")


def test_an_agent_writes_for_its_own_node_alone(release: Release) -> None:
    agent = release.agent_of(OWN)
    until_binding_works(release, agent)
    release.write_status(agent, OWN)
    assert release.renew_lease(agent, OWN) == []
    with pytest.raises(
        ApiError, match=f"the agent of node {OWN} may write nodeproxies {OWN} alone, not {OTHER}"
    ) as error:
        release.write_status(agent, OTHER)
    assert error.value.status == 403
    (problem,) = release.renew_lease(agent, OTHER)
    assert f"the agent of node {OWN} may write leases pointsman-agent-{OWN} alone" in problem.message
    # The Lease of the operator is no agent's, either.
    leases = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"
    assert [lease["metadata"]["name"] for lease in release.plane.api.get(leases)["items"]] == [f"pointsman-agent-{OWN}"]


def test_each_agent_has_its_own_node(release: Release) -> None:
    other = release.agent_of(OTHER)
    release.write_status(other, OTHER)
    assert release.renew_lease(other, OTHER) == []
    # What is there cannot be taken over: this is an update, not a creation.
    (problem,) = release.renew_lease(release.agent_of(OWN), OTHER)
    assert "403" in str(problem) or "may write leases" in problem.message


def test_a_token_without_a_node_writes_nothing(release: Release) -> None:
    with pytest.raises(ApiError, match="does not say which node it is for"):
        release.write_status(release.token("anywhere", {}), OWN)


def until_binding_works(release: Release, agent: Path) -> None:
    """Wait until the API server has compiled the policy: it takes effect a moment after it was written."""

    def refused() -> bool:
        try:
            release.write_status(agent, OTHER)
        except ApiError:
            return True
        return False

    until(refused, "the policy has no effect")


def test_without_the_policy_rbac_alone_counts(release: Release) -> None:
    release.upgrade("--set", "admissionPolicy.enabled=false")
    agent = release.agent_of(OWN)

    def allowed() -> bool:
        try:
            release.write_status(agent, OTHER)
        except ApiError:
            return False
        return True

    until(allowed, "the policy still has an effect")
    release.upgrade()
    until_binding_works(release, agent)


def test_uninstalled_it_leaves_the_custom_resources_alone(release: Release) -> None:
    done = release.helm("uninstall", "pointsman", "--namespace", NAMESPACE, "--no-hooks", "--wait")
    assert done.returncode == 0, done.stderr
    named = release.plane.kubectl(
        "get",
        "crd,clusterroles,clusterrolebindings,validatingwebhookconfigurations,validatingadmissionpolicies",
        "-o",
        "name",
    )
    assert [name.partition("/")[2] for name in named.split() if "pointsman" in name] == [
        "nodeproxies.pointsman.dev",
        "proxyconfigs.pointsman.dev",
    ]
    assert len(release.plane.api.get("/apis/pointsman.dev/v1alpha1/nodeproxies")["items"]) == 2
