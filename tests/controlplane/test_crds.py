"""The custom resources on a real API server: what it refuses by itself, fills in, merges and shows."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml

from pointsman.api import crds
from pointsman.api.nodeproxy import NodeProxy, resolve
from pointsman.api.proxyconfig import ProxyConfig
from support.bad_proxyconfigs import BAD, GOOD

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pointsman.lab.controlplane.plane import ControlPlane

NODE: Final = "crds-node"
NOWHERE: Final = {"nodeSelector": {"matchLabels": {"crds": "nowhere"}}}
"""So that what is kept here is for no node of another test."""
SHOWN: Final = {"scheduler": "rr", **NOWHERE}
NOW: Final = "2026-01-31T12:00:00Z"
READY: Final = {"type": "Ready", "status": "Unknown", "reason": "AgentSilent", "lastTransitionTime": NOW}


def config(name: str, spec: object) -> dict[str, Any]:
    return {"apiVersion": "pointsman.dev/v1alpha1", "kind": "ProxyConfig", "metadata": {"name": name}, "spec": spec}


def listed(objects: Sequence[object]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})


@pytest.fixture(scope="module")
def cluster(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    control_plane.apply(crds.documents())
    control_plane.wait_for_definitions()
    yield control_plane
    control_plane.kubectl("delete", "--ignore-not-found", "pxc", "crds-merged", "crds-shown")
    control_plane.kubectl("delete", "--ignore-not-found", "npx", NODE)


@pytest.fixture(scope="module")
def refusals(cluster: ControlPlane) -> Mapping[int, str]:
    """What the API server says of each bad object; one call, as each start of kubectl takes its time."""
    items = [config(f"crds-bad-{number}", bad.spec) for number, bad in enumerate(BAD)]
    # Without kubectl's own validation, as any other client.
    done = cluster.try_kubectl("create", "--dry-run=server", "--validate=false", "-f", "-", stdin=listed(items))
    assert not done.stdout, "these were accepted"
    found = re.findall(r'"crds-bad-([0-9]+)" is invalid: (.*)', done.stderr)
    return {int(number): words for number, words in found}


@pytest.mark.parametrize("number", range(len(BAD)), ids=lambda number: f"{BAD[number].field}-{number}")
def test_the_api_server_refuses_what_is_bad_in_words_that_people_understand(
    refusals: Mapping[int, str], number: int
) -> None:
    bad = BAD[number]
    # Several causes stand in brackets, each with its field before it.
    causes = re.split(r", (?=spec)", refusals[number].removeprefix("["))
    assert any(cause.startswith(f"{bad.field}: ") and bad.words in cause for cause in causes), refusals[number]


def test_what_is_good_is_accepted_and_means_the_same_with_every_default_filled_in(cluster: ControlPlane) -> None:
    items = [config(f"crds-good-{number}", spec) for number, spec in enumerate(GOOD)]
    output = cluster.kubectl("create", "--dry-run=server", "-o", "yaml", "-f", "-", stdin=listed(items))
    stored = list(yaml.safe_load_all(output))
    assert [ProxyConfig.read(obj).spec for obj in stored] == [ProxyConfig.read(item).spec for item in items]


def test_whatever_is_good_the_operator_can_write_into_a_node_proxy(cluster: ControlPlane) -> None:
    specs = [resolve(ProxyConfig.read(config("crds-good", spec))) for spec in GOOD]
    written = [spec.model_dump(mode="json", by_alias=True, exclude_none=True) for spec in specs]
    items = [{**config(f"crds-{number}", spec), "kind": "NodeProxy"} for number, spec in enumerate(written)]
    output = cluster.kubectl("create", "--dry-run=server", "-o", "yaml", "-f", "-", stdin=listed(items))
    assert [NodeProxy.read(stored).spec for stored in yaml.safe_load_all(output)] == specs


def test_a_kind_without_a_spec_is_all_defaults(cluster: ControlPlane) -> None:
    bare = {key: value for key, value in config("crds-bare", None).items() if key != "spec"}
    stored = yaml.safe_load(
        cluster.kubectl("create", "--dry-run=server", "-o", "yaml", "-f", "-", stdin=json.dumps(bare))
    )
    assert (stored["spec"]["mode"], stored["spec"]["rollout"]) == ("nftables", {"maxUnavailable": "10%"})
    assert not {"scheduler", "nodePortAddresses", "nodeSelector", "podCIDRs", "conntrack"} & set(stored["spec"])


def test_unknown_fields_are_named_by_kubectl(cluster: ControlPlane) -> None:
    done = cluster.try_kubectl(
        "create", "--dry-run=server", "-f", "-", stdin=json.dumps(config("crds-x", {"colour": 1}))
    )
    assert 'unknown field "spec.colour"' in done.stderr


def test_the_documentation_is_in_the_cluster(cluster: ControlPlane) -> None:
    text = cluster.kubectl("explain", "pxc.spec")
    words = " ".join(text.split())
    assert "The dataplane that brings Services into the node's kernel. Allowed: nftables, ipvs, iptables, " in words
    assert "or one of your own as example.com/name. Default: nftables." in words
    assert "enum: ClusterCIDR, NodeCIDR" in words
    assert "`" not in text
    assert "<no description>" not in text
    assert "Settings of the mode" in cluster.kubectl("explain", "npx.spec.ipvs")
    assert "ModeInForce" in cluster.kubectl("explain", "npx.status")


def test_two_owners_each_keep_their_fields(cluster: ControlPlane) -> None:
    def apply(owner: str, **spec: object) -> Any:  # noqa: ANN401 - whatever the API server answers
        arguments = ("apply", "--server-side", f"--field-manager={owner}", "-o", "json", "-f", "-")
        return json.loads(cluster.kubectl(*arguments, stdin=json.dumps(config("crds-merged", spec))))

    apply("selecting", **NOWHERE)
    apply("network", podCIDRs=["10.244.0.0/16"], ipvs={"strictARP": True})
    both = apply("platform", podCIDRs=["10.245.0.0/16"], scheduler="rr", nodePortAddresses=["all"])["spec"]
    assert sorted(both["podCIDRs"]) == ["10.244.0.0/16", "10.245.0.0/16"]
    assert (both["ipvs"]["strictARP"], both["scheduler"]) == (True, "rr")
    left = apply("network", podCIDRs=[])["spec"]
    assert (left["podCIDRs"], left["ipvs"]["strictARP"], left["scheduler"]) == (["10.245.0.0/16"], False, "rr")


def test_owners_of_conditions_do_not_undo_each_other(cluster: ControlPlane) -> None:
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(config("crds-shown", SHOWN)))

    def apply(owner: str, **status: object) -> Any:  # noqa: ANN401 - whatever the API server answers
        document = {**config("crds-shown", None), "status": status}
        del document["spec"]
        arguments = ("apply", "--server-side", "--subresource=status", f"--field-manager={owner}", "-o", "json")
        return json.loads(cluster.kubectl(*arguments, "-f", "-", stdin=json.dumps(document)))["status"]

    apply("one", conditions=[READY], effectiveModes=[{"mode": "nftables", "nodes": 2}])
    both = apply("two", conditions=[{**READY, "type": "Degraded"}], effectiveModes=[{"mode": "ipvs", "nodes": 1}])
    assert {condition["type"] for condition in both["conditions"]} == {"Ready", "Degraded"}
    assert {entry["mode"] for entry in both["effectiveModes"]} == {"nftables", "ipvs"}


def test_the_dashboard(cluster: ControlPlane) -> None:
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(config("crds-shown", SHOWN)))
    rolling = {"type": "Progressing", "status": "True", "reason": "RollingOut", "lastTransitionTime": NOW}
    told = {"nodes": {"desired": 3, "updated": 3, "ready": 2, "summary": "2/3"}, "problemCount": 1}
    patch_status(cluster, "pxc", "crds-shown", {**told, "conditions": [READY, rolling]})
    # Five columns and the age.
    assert row(cluster, "pxc", "crds-shown")[:-1] == ["crds-shown", "nftables", "rr", "2/3", "RollingOut", "1"]

    make_node_proxy(cluster)
    counts = {"mode": "nftables", "services": 12, "endpoints": 48, "problemCount": 0, "lastSyncTime": NOW}
    patch_status(cluster, "npx", NODE, {**counts, "conditions": [READY]})
    name, *told_of_it, _, _ = row(cluster, "npx", NODE)
    assert (name, told_of_it) == (NODE, ["nftables", "Unknown", "AgentSilent", "12", "48", "0", "crds-shown"])
    assert {"crds-shown", NODE} <= {line.partition("/")[2] for line in names(cluster, "pointsman")}


def test_what_the_api_server_keeps_is_read_whatever_its_status_says(cluster: ControlPlane) -> None:
    make_node_proxy(cluster)
    patch_status(cluster, "npx", NODE, {"services": 12, "conditions": [READY]})
    stored = json.loads(cluster.kubectl("get", "npx", NODE, "-o", "json", "--show-managed-fields"))
    read = NodeProxy.read(stored)
    assert read.spec == resolve(ProxyConfig.read(config("crds-shown", SHOWN)))
    assert (read.uid, read.generation) == (stored["metadata"]["uid"], 1)
    assert (read.status.services, read.status.conditions[0].reason) == (12, "AgentSilent")
    odd = NodeProxy.read({**stored, "status": {**stored["status"], "mode": "ebpf", "services": "many"}})
    assert (odd.spec, odd.status.mode, odd.status.services) == (read.spec, None, 0)
    assert odd.status.conditions == read.status.conditions


def make_node_proxy(cluster: ControlPlane) -> None:
    spec = resolve(ProxyConfig.read(config("crds-shown", SHOWN)))
    document = {
        **config(NODE, spec.model_dump(mode="json", by_alias=True, exclude_none=True)),
        "kind": "NodeProxy",
    }
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(document))


def patch_status(cluster: ControlPlane, kind: str, name: str, status: object) -> None:
    patch = json.dumps({"status": status})
    cluster.kubectl("patch", kind, name, "--subresource=status", "--type=merge", "-p", patch)


def row(cluster: ControlPlane, kind: str, name: str) -> list[str]:
    return cluster.kubectl("get", kind, name, "--no-headers").split()


def names(cluster: ControlPlane, kind: str) -> list[str]:
    return cluster.kubectl("get", kind, "-o", "name").split()
