"""What accounts asked an API server for, by its audit log, and what they are granted."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pointsman.api.permissions import Permissions
    from pointsman.lab.containers.cluster import ContainerCluster

SYSTEM = "pointsman-system"
Right = tuple[str, str, str]
"""API group, resource with its subresource, verb."""


def asked(cluster: ContainerCluster, account: str) -> list[dict[str, Any]]:
    """Return what an account has asked the API server for, whole lines of the log alone."""
    text = (cluster.plane.files / "logs/audit.log").read_text()
    entries = [json.loads(line) for line in text[: text.rfind("\n")].splitlines()]
    user = f"system:serviceaccount:{SYSTEM}:{account}"
    return [entry for entry in entries if entry["user"]["username"] == user and "objectRef" in entry]


def rights(entry: dict[str, Any]) -> set[Right]:
    """Return what a request needs the right for.

    An API server that can send its lists by a watch is asked so, and one that cannot is asked for both: who may watch
    has to be able to list.
    """
    ref = entry["objectRef"]
    resource = "/".join(part for part in (ref["resource"], ref.get("subresource")) if part)
    verbs = {entry["verb"]} | ({"list"} if entry["verb"] == "watch" else set())
    return {(ref.get("apiGroup", ""), resource, verb) for verb in verbs}


def granted(permissions: Permissions) -> set[Right]:
    rules = (*permissions.cluster, *permissions.namespaced)
    return {(rule.group, resource, verb) for rule in rules for resource in rule.resources for verb in rule.verbs}


def unused(cluster: ContainerCluster, permissions: Permissions) -> set[Right]:
    """Return the rights that were granted and not used yet."""
    return granted(permissions).difference(*map(rights, asked(cluster, permissions.account)))


def refused(cluster: ContainerCluster, permissions: Permissions, *, for_good: bool = False) -> set[tuple[str, str]]:
    """Return the requests that the API server refused for want of a right: verb and path.

    Args:
        cluster: whose API server.
        permissions: of the account.
        for_good: leave out what was allowed later. A hook comes right after its binding, of which an API server hears a
            moment later; it asks again.
    """
    decisions: dict[tuple[str, str], list[str]] = {}
    for entry in asked(cluster, permissions.account):
        # A request that was ended before that has no decision.
        decision = entry.get("annotations", {}).get("authorization.k8s.io/decision", "")
        decisions.setdefault((entry["verb"], entry["requestURI"]), []).append(decision)
    return {request for request, found in decisions.items() if "forbid" in (found[-1:] if for_good else found)}
