"""The ValidatingWebhookConfiguration: what is asked, and what is spared."""

from __future__ import annotations

from pointsman.api.webhooks import webhook_configuration

SERVICE = {"service": {"name": "pointsman-webhook", "namespace": "pointsman-system", "port": 443}}


def test_what_is_asked() -> None:
    document = webhook_configuration(client_config=SERVICE, namespace="pointsman-system")
    assert document["metadata"]["name"] == "pointsman"
    services, configs = document["webhooks"]
    assert (services["name"], configs["name"]) == ("services.pointsman.dev", "proxyconfigs.pointsman.dev")
    assert services["clientConfig"] == {"service": {**SERVICE["service"], "path": "/validate/services"}}
    assert configs["clientConfig"]["service"]["path"] == "/validate/proxyconfigs"
    assert services["rules"] == [
        {
            "apiGroups": [""],
            "apiVersions": ["v1"],
            "operations": ["CREATE", "UPDATE"],
            "resources": ["services"],
            "scope": "Namespaced",
        }
    ]
    assert configs["rules"][0]["apiGroups"] == ["pointsman.dev"]
    for webhook in (services, configs):
        assert (webhook["sideEffects"], webhook["matchPolicy"]) == ("None", "Equivalent")
        assert webhook["admissionReviewVersions"] == ["v1"]


def test_by_default_a_dead_webhook_holds_nothing_up() -> None:
    services, configs = webhook_configuration(client_config=SERVICE, namespace="here")["webhooks"]
    assert {services["failurePolicy"], configs["failurePolicy"]} == {"Ignore"}
    assert services["timeoutSeconds"] == 5
    assert services["namespaceSelector"] == {
        "matchExpressions": [
            {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["kube-system", "here"]}
        ]
    }
    assert "namespaceSelector" not in configs


def test_what_can_be_chosen() -> None:
    chosen = {"matchLabels": {"team": "a"}}
    services, configs = webhook_configuration(
        client_config={"url": "https://127.0.0.1:9443/", "caBundle": "eA=="},
        namespace="here",
        failure_policy="Fail",
        namespace_selector=chosen,
        timeout_seconds=2,
    )["webhooks"]
    assert services["namespaceSelector"] == chosen
    assert (configs["failurePolicy"], configs["timeoutSeconds"]) == ("Fail", 2)
    assert services["clientConfig"] == {"url": "https://127.0.0.1:9443/validate/services", "caBundle": "eA=="}


def test_an_empty_selector_means_every_namespace() -> None:
    services, _ = webhook_configuration(client_config=SERVICE, namespace="here", namespace_selector={})["webhooks"]
    assert services["namespaceSelector"] == {}
