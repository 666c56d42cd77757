"""The ValidatingWebhookConfiguration: what the API server asks the operator about, and where it does not.

A dead webhook must never keep a cluster from healing. So the default is to go on without an answer (`Ignore`), after a
few seconds; and Services in ``kube-system`` and in Pointsman's own namespace are never asked about.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

from pointsman.api.names import GROUP, VERSION, WEBHOOK_CONFIGURATION

if TYPE_CHECKING:
    from collections.abc import Mapping

FailurePolicy = Literal["Ignore", "Fail"]

SERVICES_PATH: Final = "/validate/services"
PROXY_CONFIGS_PATH: Final = "/validate/proxyconfigs"
_NAMESPACE_LABEL: Final = "kubernetes.io/metadata.name"


def webhook_configuration(
    *,
    client_config: Mapping[str, Any],
    namespace: str,
    failure_policy: FailurePolicy = "Ignore",
    namespace_selector: Mapping[str, Any] | None = None,
    timeout_seconds: int = 5,
) -> dict[str, Any]:
    """Return the configuration as plain data.

    Args:
        client_config: how the API server reaches the operator: ``{"service": {"name": …, "namespace": …}}`` or
            ``{"url": "https://HOST:PORT"}``, with or without ``caBundle`` (the operator keeps it true). Each webhook's
            path is added.
        namespace: Pointsman's own.
        failure_policy: what to do without an answer. `Fail` is strict: nobody can change a Service then.
        namespace_selector: the namespaces whose Services are asked about (metav1.LabelSelector); None: all but
            ``kube-system`` and `namespace`. ProxyConfigs are in no namespace, so that no selector spares them.
        timeout_seconds: how long the API server waits for an answer, 1..30.
    """
    selector = everywhere_but("kube-system", namespace) if namespace_selector is None else namespace_selector
    shared = {
        "admissionReviewVersions": ["v1"],
        "failurePolicy": failure_policy,
        "matchPolicy": "Equivalent",
        "sideEffects": "None",
        "timeoutSeconds": timeout_seconds,
    }
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {
            "name": WEBHOOK_CONFIGURATION,
            "labels": {"app.kubernetes.io/name": "pointsman", "app.kubernetes.io/component": "operator"},
        },
        "webhooks": [
            {
                "name": f"services.{GROUP}",
                "clientConfig": _at(SERVICES_PATH, client_config),
                "rules": [_rule("", "v1", "services", "Namespaced")],
                "namespaceSelector": dict(selector),
                **shared,
            },
            {
                "name": f"proxyconfigs.{GROUP}",
                "clientConfig": _at(PROXY_CONFIGS_PATH, client_config),
                "rules": [_rule(GROUP, VERSION, "proxyconfigs", "Cluster")],
                **shared,
            },
        ],
    }


def everywhere_but(*namespaces: str) -> dict[str, Any]:
    """Return a selector of all namespaces but these, by the label that the API server sets by itself."""
    return {"matchExpressions": [{"key": _NAMESPACE_LABEL, "operator": "NotIn", "values": list(namespaces)}]}


def _at(path: str, client_config: Mapping[str, Any]) -> dict[str, Any]:
    """Say which path of the operator's server answers."""
    if "url" in client_config:
        return {**client_config, "url": client_config["url"].rstrip("/") + path}
    return {**client_config, "service": {**client_config["service"], "path": path}}


def _rule(group: str, version: str, resource: str, scope: str) -> dict[str, Any]:
    return {
        "apiGroups": [group],
        "apiVersions": [version],
        "operations": ["CREATE", "UPDATE"],
        "resources": [resource],
        "scope": scope,
    }
