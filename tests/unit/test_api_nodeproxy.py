"""NodeProxy: what is resolved for a node, and that nobody's status takes the configuration away."""

from __future__ import annotations

from typing import Any, Final

import pytest
from pydantic import ValidationError

from pointsman.api.errors import validation_problems
from pointsman.api.nodeproxy import NodeProxy, resolve
from pointsman.api.proxyconfig import ProxyConfig
from pointsman.api.status import NodeProxyStatus

STORED: Final[dict[str, Any]] = {
    "apiVersion": "pointsman.dev/v1alpha1",
    "kind": "NodeProxy",
    "metadata": {
        "name": "node-1",
        "uid": "0b1c",
        "generation": 3,
        "resourceVersion": "81",
        "creationTimestamp": "2026-01-31T12:00:00Z",
        "managedFields": [{"manager": "pointsman", "operation": "Apply", "fieldsV1": {"f:spec": {}}}],
    },
    "spec": {"mode": "ipvs", "scheduler": "lc", "proxyConfig": "workers"},
    "status": {
        "observedGeneration": 3,
        "mode": "ipvs",
        "services": 7,
        "conditions": [
            {"type": "Ready", "status": "True", "reason": "Programmed", "lastTransitionTime": "2026-01-31T12:00:00Z"}
        ],
    },
}


def test_what_an_api_server_keeps_is_read() -> None:
    read = NodeProxy.read(STORED)
    assert (read.name, read.uid, read.generation) == ("node-1", "0b1c", 3)
    assert (read.spec.mode, read.spec.scheduler, read.spec.proxy_config) == ("ipvs", "lc", "workers")
    assert (read.status.services, read.status.conditions[0].status) == (7, "True")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mode", "ebpf"),
        ("services", "many"),
        ("conditions", [{"type": "Ready", "status": "Maybe", "reason": "R", "lastTransitionTime": "x"}]),
        ("problems", {"a": 1}),
        ("agent", "me"),
        ("resourceVersions", [1]),
    ],
)
def test_an_odd_field_of_a_status_is_left_out_alone(field: str, value: object) -> None:
    odd = NodeProxy.read({**STORED, "status": {**STORED["status"], field: value}})
    good = {name: written for name, written in STORED["status"].items() if name != field}
    assert odd == NodeProxy.read({**STORED, "status": good})


@pytest.mark.parametrize("status", ["done", ["done"], 1, True])
def test_a_status_that_is_none_counts_as_absent(status: object) -> None:
    read = NodeProxy.read({**STORED, "status": status})
    assert (read.spec.mode, read.status) == ("ipvs", NodeProxyStatus())


def test_what_is_wrong_in_the_spec_is_said_whatever_the_status_says() -> None:
    bad = {**STORED, "spec": {"mode": "ebpf"}, "status": {"services": "many"}}
    with pytest.raises(ValidationError) as caught:
        NodeProxy.read(bad)
    assert [problem.field for problem in validation_problems(caught.value)] == ["spec.mode"]


@pytest.mark.parametrize("document", [None, [], "text", 1, {"metadata": 1, "status": 1}])
def test_what_is_no_object_is_refused(document: object) -> None:
    with pytest.raises(ValidationError):
        NodeProxy.read(document)


def test_a_proxy_config_s_status_is_read_likewise() -> None:
    nodes = {"desired": 3, "updated": 2, "ready": 1, "summary": "1/3"}
    document = {"metadata": {"name": "c", "uid": "77"}, "status": {"nodes": nodes, "problemCount": "x"}}
    config = ProxyConfig.read(document)
    assert (config.uid, config.status.nodes.summary, config.status.problem_count) == ("77", "1/3", 0)


def test_networks_that_are_the_same_stand_once_in_what_is_resolved() -> None:
    spec = {"podCIDRs": ["10.1.2.3/8", "10.0.0.0/8"]}
    resolved = resolve(ProxyConfig.read({"metadata": {"name": "c"}, "spec": spec}))
    # The API server refuses a list of type set that holds the same twice.
    assert resolved.pod_cidrs == ("10.0.0.0/8",)
    assert resolved.proxy_config == "c"
