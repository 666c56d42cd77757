"""What agent and operator may do: as much as they need, and not more."""

from __future__ import annotations

from typing import Any

import pytest

from pointsman.api import crds
from pointsman.api.permissions import AGENT, CRDS, OPERATOR, UNINSTALLER, Permissions, Rule, granted, manifests


def writable(permissions: Permissions) -> dict[str, set[str]]:
    reading = {"get", "list", "watch"}
    found: dict[str, set[str]] = {}
    for rule in permissions.cluster:
        for resource in rule.resources:
            verbs = set(rule.verbs) - reading
            if verbs:
                found.setdefault(resource, set()).update(verbs)
    return found


def test_the_agent_writes_its_status_and_events_alone() -> None:
    assert writable(AGENT) == {"nodeproxies/status": {"patch"}, "events": {"create"}}


def test_the_operator_never_writes_on_what_users_own() -> None:
    assert writable(OPERATOR) == {
        "nodeproxies": {"create", "patch", "delete"},
        "nodeproxies/status": {"patch"},
        "proxyconfigs/status": {"patch"},
        "services/status": {"patch"},
        "validatingwebhookconfigurations": {"patch"},
        "events": {"create"},
    }


@pytest.mark.parametrize("permissions", [AGENT, OPERATOR, UNINSTALLER, CRDS])
def test_nothing_is_granted_at_large(permissions: Permissions) -> None:
    rules = (*permissions.cluster, *permissions.namespaced)
    assert not [rule for rule in rules if "*" in (rule.group, *rule.resources, *rule.verbs)]
    assert not {"secrets", "configmaps"} & {name for rule in permissions.cluster for name in rule.resources}


def test_secrets_are_read_by_name() -> None:
    reading = [rule for rule in OPERATOR.namespaced if "secrets" in rule.resources and "get" in rule.verbs]
    assert [rule.names for rule in reading] == [("pointsman-webhook-tls",)]


def test_agents_read_nobodys_leases_and_no_daemon_set_but_their_own() -> None:
    leases, owner = AGENT.namespaced
    assert (leases.resources, leases.verbs) == (("leases",), ("create", "patch"))
    assert owner == Rule("apps", ("daemonsets",), ("get",), ("pointsman-agent",))


def test_the_uninstaller_can_delete_the_agents_and_nothing_else() -> None:
    assert UNINSTALLER.cluster == ()
    deleting = [rule for rule in UNINSTALLER.namespaced if "delete" in rule.verbs]
    assert [(rule.resources, rule.names) for rule in deleting] == [(("daemonsets",), ("pointsman-agent",))]
    assert {verb for rule in UNINSTALLER.namespaced for verb in rule.verbs} == {"get", "list", "delete"}


def test_who_installs_the_custom_resources_writes_no_others() -> None:
    (rule,) = CRDS.cluster
    assert set(rule.names) == {document["metadata"]["name"] for document in crds.documents()}
    assert (rule.resources, CRDS.namespaced) == (("customresourcedefinitions",), ())


def test_a_role_without_rules_is_left_out() -> None:
    kinds = ["ServiceAccount", "Role", "RoleBinding"]
    assert [obj["kind"] for obj in granted(UNINSTALLER, "here")] == kinds
    assert [obj["kind"] for obj in granted(CRDS, "here")] == ["ServiceAccount", "ClusterRole", "ClusterRoleBinding"]
    assert {obj["metadata"]["name"] for obj in granted(CRDS, "here")} == {"pointsman-crds"}


def test_a_rule_with_names() -> None:
    assert Rule("", ("secrets",), ("get",), ("a",)).document() == {
        "apiGroups": [""],
        "resources": ["secrets"],
        "verbs": ["get"],
        "resourceNames": ["a"],
    }


def test_manifests_belong_together() -> None:
    objects = manifests("here")
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for obj in objects:
        by_kind.setdefault(obj["kind"], []).append(obj)
    assert objects[0]["metadata"]["name"] == "here"
    names = ["pointsman-agent", "pointsman-operator"]
    for kind in ("ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"):
        assert [obj["metadata"]["name"] for obj in by_kind[kind]] == names
    for kind in ("ServiceAccount", "Role", "RoleBinding"):
        assert {obj["metadata"]["namespace"] for obj in by_kind[kind]} == {"here"}
    for kind in ("ClusterRole", "Role"):
        for binding in by_kind[f"{kind}Binding"]:
            name = binding["metadata"]["name"]
            assert binding["roleRef"] == {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}
            assert binding["subjects"] == [{"kind": "ServiceAccount", "name": name, "namespace": "here"}]


def test_each_call_gives_data_of_its_own() -> None:
    manifests()[0]["metadata"]["name"] = "changed"
    assert manifests()[0]["metadata"]["name"] == "pointsman-system"
