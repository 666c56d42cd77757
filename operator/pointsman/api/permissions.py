"""What the agent, the operator and two commands may do in a cluster: one source for the chart, the lab and the tests.

Each rule is there because a part of Pointsman asks for it; nothing else is granted. Discovery (``/api``, ``/apis``) is
open to every account by Kubernetes' own roles.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from pointsman.api.names import AGENT_DAEMON_SET, GROUP, WEBHOOK_CONFIGURATION, WEBHOOK_SECRET

NAMESPACE: Final = "pointsman-system"
_RBAC: Final = "rbac.authorization.k8s.io"
_FOLLOW: Final = ("list", "watch")


class Rule(NamedTuple):
    """An entry of ``rules`` in a Role.

    Attributes:
        group: the API group; empty for core.
        resources: their plural names, with subresources as ``services/status``.
        verbs: what may be done.
        names: of single objects; empty for all.
    """

    group: str
    resources: tuple[str, ...]
    verbs: tuple[str, ...]
    names: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """Write it as a Role has it."""
        written = {"apiGroups": [self.group], "resources": list(self.resources), "verbs": list(self.verbs)}
        return {**written, "resourceNames": list(self.names)} if self.names else written


class Permissions(NamedTuple):
    """What one program may do.

    Attributes:
        component: `agent`, `operator`, `uninstaller` or `crds`.
        cluster: everywhere.
        namespaced: in Pointsman's own namespace alone.
    """

    component: str
    cluster: tuple[Rule, ...]
    namespaced: tuple[Rule, ...]

    @property
    def account(self) -> str:
        """The name of the ServiceAccount, and of all that is bound to it."""
        return f"pointsman-{self.component}"


_EVENTS: Final = Rule("events.k8s.io", ("events",), ("create",))
_CRDS: Final = ("apiextensions.k8s.io", ("customresourcedefinitions",))

AGENT: Final = Permissions(
    "agent",
    cluster=(
        Rule("", ("services", "nodes"), ("get", *_FOLLOW)),
        Rule("", ("endpoints", "namespaces", "pods"), _FOLLOW),
        Rule("discovery.k8s.io", ("endpointslices",), _FOLLOW),
        Rule("networking.k8s.io", ("servicecidrs",), _FOLLOW),
        Rule(GROUP, ("nodeproxies",), _FOLLOW),
        Rule(GROUP, ("nodeproxies/status",), ("patch",)),
        _EVENTS,
    ),
    # A role cannot say "the one that is called after your node": an agent could renew another's Lease, and take the
    # operator's.
    namespaced=(
        Rule("coordination.k8s.io", ("leases",), ("create", "patch")),
        # `--clean-up-with`: whether it is stopped or uninstalled.
        Rule("apps", ("daemonsets",), ("get",), (AGENT_DAEMON_SET,)),
    ),
)

OPERATOR: Final = Permissions(
    "operator",
    cluster=(
        Rule("", ("services", "namespaces"), ("get", *_FOLLOW)),
        Rule("", ("nodes", "endpoints"), _FOLLOW),
        Rule("", ("services/status",), ("patch",)),
        Rule("discovery.k8s.io", ("endpointslices",), _FOLLOW),
        Rule(GROUP, ("proxyconfigs",), ("get", *_FOLLOW)),
        Rule(GROUP, ("nodeproxies",), ("get", *_FOLLOW, "create", "patch", "delete")),
        Rule(GROUP, ("proxyconfigs/status", "nodeproxies/status"), ("patch",)),
        # Kopf learns from these that a custom resource has come or gone.
        Rule(*_CRDS, _FOLLOW),
        Rule(
            "admissionregistration.k8s.io",
            ("validatingwebhookconfigurations",),
            ("get", "patch"),
            (WEBHOOK_CONFIGURATION,),
        ),
        _EVENTS,
    ),
    namespaced=(
        # Its own Lease, and the agents' to see who is silent.
        Rule("coordination.k8s.io", ("leases",), ("get", "list", "create", "update", "patch")),
        Rule("", ("secrets",), ("get", "patch"), (WEBHOOK_SECRET,)),
        Rule("", ("secrets",), ("create",)),  # what is created has no name yet that a rule could hold
    ),
)


UNINSTALLER: Final = Permissions(
    "uninstaller",
    cluster=(),
    namespaced=(
        Rule("apps", ("daemonsets",), ("get", "delete"), (AGENT_DAEMON_SET,)),
        Rule("", ("pods",), ("list",)),  # to say on which nodes it waits for an agent
        Rule("coordination.k8s.io", ("leases",), ("list",)),  # and which agents have left nothing
    ),
)
"""Of ``pointsman uninstall``."""

CRDS: Final = Permissions(
    "crds",
    cluster=(
        # Server-side apply asks for `create` by name, too, when there is nothing of that name yet.
        Rule(*_CRDS, ("get", "create", "patch"), (f"nodeproxies.{GROUP}", f"proxyconfigs.{GROUP}")),
    ),
    namespaced=(),
)
"""Of ``pointsman crds --apply``."""


def manifests(namespace: str = NAMESPACE) -> list[dict[str, Any]]:
    """Return the objects that grant agent and operator their permissions, in the order in which to apply them.

    Args:
        namespace: Pointsman's own; it is among the objects.

    Returns:
        Plain data, each time anew.
    """
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": _labels()}},
        *granted(AGENT, namespace),
        *granted(OPERATOR, namespace),
    ]


def granted(permissions: Permissions, namespace: str = NAMESPACE) -> list[dict[str, Any]]:
    """Return an account and the roles that grant it its permissions, in the order in which to apply them.

    Args:
        permissions: of one program; a role without a rule is left out.
        namespace: Pointsman's own; it has to be there.

    Returns:
        Plain data, each time anew.
    """
    everywhere = {"name": permissions.account, "labels": _labels(permissions.component)}
    here = {**everywhere, "namespace": namespace}
    account = {"kind": "ServiceAccount", "name": permissions.account, "namespace": namespace}
    objects: list[dict[str, Any]] = [{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": here}]
    for kind, metadata, rules in (
        ("ClusterRole", everywhere, permissions.cluster),
        ("Role", here, permissions.namespaced),
    ):
        if rules:
            objects += [_role(kind, metadata, rules), _binding(kind, metadata, account)]
    return objects


def _role(kind: str, metadata: dict[str, Any], rules: tuple[Rule, ...]) -> dict[str, Any]:
    documents = [rule.document() for rule in rules]
    return {"apiVersion": f"{_RBAC}/v1", "kind": kind, "metadata": metadata, "rules": documents}


def _binding(kind: str, metadata: dict[str, Any], account: dict[str, str]) -> dict[str, Any]:
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": f"{kind}Binding",
        "metadata": metadata,
        "roleRef": {"apiGroup": _RBAC, "kind": kind, "name": metadata["name"]},
        "subjects": [account],
    }


def _labels(component: str = "") -> dict[str, str]:
    name = {"app.kubernetes.io/name": "pointsman"}
    return {**name, "app.kubernetes.io/component": component} if component else name
