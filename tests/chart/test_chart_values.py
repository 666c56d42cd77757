"""Values: each has an effect, and wrong ones are refused by name."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml

from pointsman.api.chart_pages import entries
from pointsman.api.chart_parts import Piece, Resources
from pointsman.api.chart_values import Values
from support.bad_proxyconfigs import GOOD
from support.charts import CHART, HOST, NAMESPACE, Rendered, with_value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.charts import Chart, Document

EVERYTHING: Final = {
    **HOST,
    "agent": {"fallbackConfig": True},
    "webhook": {"certificates": "certManager", "certManager": {"issuerRef": {"name": "ours"}}},
    "networkPolicy": {"enabled": True},
    "metrics": {"serviceMonitor": {"enabled": True}, "dashboard": {"enabled": True}},
}
"""Every switch is on."""

SINGULAR: Final = {
    "apiServer.host": "192.0.2.11",
    "image.digest": f"sha256:{'0' * 64}",
    "image.pullPolicy": "Always",
    "image.pullSecrets": ["registry"],
    "logFormat": "json",
    "proxyConfig.spec": {"mode": "nftables"},
    "agent.onUninstall": "keep",
    "agent.stateDir": "/var/lib/elsewhere",
    "agent.tolerations": [],
    "operator.tolerations": [],
    "operator.topologySpreadConstraints": [],
    "webhook.failurePolicy": "Fail",
    "webhook.certificates": "secret",
    "webhook.certManager.issuerRef": {"name": "theirs"},
    "networkPolicy.apiServerCIDRs": ["192.0.2.0/24"],
    "metrics.bindAddress": "192.0.2.1",
    "metrics.serviceMonitor.metricRelabelings": [{"action": "labeldrop", "regex": "x"}],
}
"""Another value, where one cannot be made up."""


def leaves(piece: Piece, above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each value by its path."""
    for name, value, _ in entries(piece):
        path = f"{above}{name}"
        if isinstance(value, Piece) and not isinstance(value, Resources):
            yield from leaves(value, f"{path}.")
        else:
            yield path, value


LEAVES: Final = dict(leaves(Values()))
ON: Final = {
    "agent.fallbackConfig",
    "networkPolicy.enabled",
    "metrics.serviceMonitor.enabled",
    "metrics.dashboard.enabled",
}
"""Switches that are off unless `EVERYTHING` is on."""


def another(path: str) -> object:
    """Return a value that is not the one in `EVERYTHING`."""
    if path in SINGULAR:
        return SINGULAR[path]
    if path.endswith("Args"):
        return ["--other"]
    value = LEAVES[path]
    if isinstance(value, bool):
        return path not in ON and not value
    made_up: dict[type, object] = {
        int: 29,
        str: f"{value}x",
        list: [{"name": "OTHER", "value": "x"}],
        dict: {"other": "x"},
        Resources: {"requests": {"cpu": "77m"}},
    }
    return made_up[type(value)]


@pytest.fixture(scope="module")
def everything(chart: Chart) -> Rendered:
    return chart.render(EVERYTHING)


@pytest.mark.parametrize("path", LEAVES)
def test_every_value_has_an_effect(chart: Chart, everything: Rendered, path: str) -> None:
    changed = chart.render(with_value(path, another(path), EVERYTHING))
    assert changed.documents != everything.documents


def test_the_defaults_may_be_given_as_values(chart: Chart) -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
    assert chart.render({**values, **HOST}).text == chart.render().text


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("agnet.x", 1, "additional properties 'agnet' not allowed"),
        ("agent.sysctl", True, "at '/agent': additional properties 'sysctl' not allowed"),
        ("agent.resources.request", {}, "at '/agent/resources': additional properties 'request' not allowed"),
        ("agent.sysctls", "yes", "at '/agent/sysctls': got string, want boolean"),
        ("agent.onUninstall", "remove", "at '/agent/onUninstall': value must be one of 'clean', 'keep'"),
        ("agent.connectionMetrics", -1, "at '/agent/connectionMetrics': minimum: got -1, want 0"),
        ("agent.stateDir", "pointsman", "at '/agent/stateDir'"),
        ("agent.maxUnavailable", "0%", "at '/agent/maxUnavailable'"),
        ("agent.maxUnavailable", 0, "at '/agent/maxUnavailable'"),
        ("operator.replicas", -1, "at '/operator/replicas': minimum: got -1, want 0"),
        ("operator.extraArgs", "--verbose", "at '/operator/extraArgs': got string, want array"),
        ("image.tag", 1.1, "at '/image/tag': got number, want string"),
        ("image.digest", "0000", "at '/image/digest'"),
        ("image.repository", "", "at '/image/repository'"),
        ("webhook.failurePolicy", "ignore", "at '/webhook/failurePolicy': value must be one of 'Ignore', 'Fail'"),
        ("webhook.timeoutSeconds", 31, "at '/webhook/timeoutSeconds': maximum: got 31, want 30"),
        ("metrics.port", 70000, "at '/metrics/port'"),
        ("proxyConfig.spec.mode", "nft", "'nft' does not match pattern '^(nftables|ipvs|iptables|userspace|"),
        ("proxyConfig.spec.modes", [], "at '/proxyConfig/spec': additional properties 'modes' not allowed"),
        ("proxyConfig.spec.ipvs", {"strictArp": True}, "additional properties 'strictArp' not allowed"),
        ("proxyConfig.spec.nodePortRanges", [{}], "at '/proxyConfig/spec/nodePortRanges/0': missing property 'range'"),
        ("proxyConfig.spec.rollout.maxUnavailable", "0", "at '/proxyConfig/spec/rollout/maxUnavailable'"),
        ("apiServer.host", "", "apiServer.host is empty: name the address of the API server"),
        ("apiServer.host", "https://192.0.2.10", 'apiServer.host "https://192.0.2.10" is more than an address'),
        ("apiServer.host", "192.0.2.10:6443", 'apiServer.host "192.0.2.10:6443" is more than an address'),
        ("apiServer.host", "[fd00::1]:6443", 'apiServer.host "[fd00::1]:6443" is more than an address'),
        ("apiServer.host", "192.0.2.10 ", 'apiServer.host "192.0.2.10 " has blanks'),
        ("apiServer.host", "api example", 'apiServer.host "api example" has blanks'),
        ("apiServer.host", "foo #bar", 'apiServer.host "foo #bar" has blanks'),
        ("apiServer.host", None, "apiServer.host is empty: name the address of the API server"),
        ("metrics.port", 10256, "metrics.port and agent.healthPort are both 10256"),
        ("agent.healthPort", 10249, "metrics.port and agent.healthPort are both 10249"),
        ("operator.healthPort", 9443, "operator.healthPort and webhook.port are both 9443"),
        ("agent.stateDir", "/etc/pointsman", 'agent.stateDir "/etc/pointsman" is below /etc/pointsman'),
        ("agent.stateDir", "/etc//pointsman/state/", 'agent.stateDir "/etc//pointsman/state/" is below'),
        ("agent.stateDir", "/host/proc/sys/net/x", 'agent.stateDir "/host/proc/sys/net/x" is below'),
        ("webhook.certificates", "certManager", "webhook.certManager.issuerRef.name is empty"),
    ],
)
def test_bad_values_are_refused_by_name(chart: Chart, path: str, value: object, said: str) -> None:
    assert said in chart.refusal(with_value(path, value))


@pytest.mark.parametrize(
    "host",
    [
        "foo#bar", "api_1", "-api.example.com", "api..example.com", "192.0.2.300", "192.0.2", "192.0.2.1.", "[api]",
        "fd00:::1", "1::2::3", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "::12345", "fe80::1%eth0", "[fd00::1",
        f"{'a' * 64}.com",
    ],
)  # fmt: skip
def test_what_is_no_host_is_refused(chart: Chart, host: str) -> None:
    said = chart.refusal(with_value("apiServer.host", host))
    assert f'apiServer.host "{host}" is no IPv4 address, IPv6 address or DNS name' in said


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("192.0.2.10", "https://192.0.2.10:6443"),
        ("::1", "https://[::1]:6443"),
        ("[fd00::A:1]", "https://[fd00::A:1]:6443"),
        ("1:2:3:4:5:6:7:8", "https://[1:2:3:4:5:6:7:8]:6443"),
        ("64:ff9b::192.0.2.10", "https://[64:ff9b::192.0.2.10]:6443"),
        ("API-1.example.com.", "https://API-1.example.com.:6443"),
        ("1password.example", "https://1password.example:6443"),
        ("localhost", "https://localhost:6443"),
        ("kubernetes.docker.internal", "https://kubernetes.docker.internal:6443"),
    ],
)
def test_what_is_a_host_is_let_through(chart: Chart, host: str, url: str) -> None:
    assert f"--server={url}" in chart.render(with_value("apiServer.host", host)).agent()["args"]


@pytest.mark.parametrize(
    "host",
    [
        "kubernetes.default", "kubernetes.default.svc", "Kubernetes.default.svc.cluster.local",
        "kubernetes.default.svc.example.", "api.tools.svc",
    ],
)  # fmt: skip
def test_a_service_is_no_way_to_the_api_server(chart: Chart, host: str) -> None:
    said = chart.refusal(with_value("apiServer.host", host))
    assert f'apiServer.host "{host}" is a Service of this cluster: the proxy cannot need itself' in said


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "[::1]", "localhost"])
def test_metrics_on_loopback_are_not_scraped(chart: Chart, address: str) -> None:
    said = chart.refusal({**HOST, "metrics": {"bindAddress": address, "serviceMonitor": {"enabled": True}}})
    assert f'metrics.bindAddress "{address}" is loopback, and metrics.serviceMonitor.enabled is true' in said


def test_every_good_configuration_is_let_through(chart: Chart) -> None:
    for spec in GOOD:
        assert chart.render(with_value("proxyConfig.spec", spec)).one("ProxyConfig")["spec"] == spec


def test_set_on_the_command_line(chart: Chart) -> None:
    options = ("--set", "proxyConfig.spec.scheduler=rr", "--set", "proxyConfig.spec.podCIDRs={10.0.0.0/8,fd00::/48}")
    rendered = chart.render(HOST, *options, "--set", "image.digest=", "--set", "agent.resources.limits=null")
    assert rendered.one("ProxyConfig")["spec"] == {"scheduler": "rr", "podCIDRs": ["10.0.0.0/8", "fd00::/48"]}
    assert set(rendered.agent()["resources"]) == {"requests"}


def test_a_chart_around_this_one_may_share_and_switch(chart: Chart) -> None:
    assert chart.render({**HOST, "global": {"registry": "x"}, "enabled": True}).documents == chart.render().documents


def test_the_image(chart: Chart) -> None:
    named = {**HOST, "image": {"repository": "registry.example.com:5000/pointsman", "tag": "1.10"}}
    assert chart.render(named).agent()["image"] == "registry.example.com:5000/pointsman:1.10"
    digest = f"sha256:{'a' * 64}"
    pinned = chart.render(with_value("image.digest", digest, named))
    assert pinned.operator()["image"] == f"registry.example.com:5000/pointsman@{digest}"


def test_what_is_kept_at_an_uninstall_has_no_hook(chart: Chart) -> None:
    rendered = chart.render(with_value("agent.onUninstall", "keep"))
    assert set(rendered.of("Job")) == {"pointsman-crds"}
    assert "pointsman-uninstaller" not in rendered.text
    assert not [option for option in rendered.agent()["args"] if option.startswith("--clean-up-with")]


def test_without_the_hook_for_custom_resources(chart: Chart) -> None:
    assert "pointsman-crds" not in chart.render(with_value("crds.upgrade", value=False)).text


def test_metrics_of_connections_are_opt_in(chart: Chart) -> None:
    assert "--connection-metrics" not in chart.render().text
    assert "--connection-metrics=500" in chart.render(with_value("agent.connectionMetrics", 500)).agent()["args"]


def test_agents_get_what_the_legacy_iptables_needs_when_that_is_asked_for(chart: Chart) -> None:
    for legacy, capabilities, mounts in ((False, ["NET_ADMIN"], 0), (True, ["NET_ADMIN", "NET_RAW"], 1)):
        rendered = chart.render(with_value("agent.iptablesLegacy", value=legacy))
        spec = rendered.one("DaemonSet")["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": capabilities}
        lock = [volume["hostPath"]["path"] for volume in spec["volumes"] if volume["name"] == "xtables-lock"]
        assert lock == ["/run/xtables.lock"] * mounts
        assert [m["mountPath"] for m in container["volumeMounts"] if m["name"] == "xtables-lock"] == lock


def test_without_sysctls(chart: Chart) -> None:
    rendered = chart.render(with_value("agent.sysctls", value=False))
    assert "/proc/sys" not in rendered.text
    assert [mount["name"] for mount in rendered.agent()["volumeMounts"]] == ["state"]


def test_the_fallback_is_what_the_agent_reads(chart: Chart) -> None:
    spec = {"podCIDRs": ["10.244.0.0/16"], "scheduler": "rr"}
    rendered = chart.render({**HOST, "proxyConfig": {"spec": spec, "create": False}, "agent": {"fallbackConfig": True}})
    assert not rendered.of("ProxyConfig")
    data = rendered.of("ConfigMap")["pointsman-agent"]["data"]
    written = yaml.safe_load(data["proxyconfig.yaml"])
    assert written["spec"] == spec
    assert written["kind"] == "ProxyConfig"
    assert "--config=/etc/pointsman/proxyconfig.yaml" in rendered.agent()["args"]
    assert {"name": "config", "mountPath": "/etc/pointsman", "readOnly": True} in rendered.agent()["volumeMounts"]


def test_without_the_webhook(chart: Chart) -> None:
    rendered = chart.render(with_value("webhook.enabled", value=False, values=EVERYTHING))
    assert not {"ValidatingWebhookConfiguration", "Certificate"} & {found["kind"] for found in rendered}
    assert "pointsman-webhook" not in rendered.of("Service")
    assert "--webhook-address=" in rendered.operator()["args"]
    assert [port["name"] for port in rendered.operator()["ports"]] == ["healthz"]
    assert len(rendered.one("NetworkPolicy")["spec"]["ingress"]) == 1


def test_the_webhooks_values(chart: Chart) -> None:
    selector = {"matchLabels": {"judged": "yes"}}
    webhook = {"failurePolicy": "Fail", "timeoutSeconds": 9, "namespaceSelector": selector}
    of_services, of_configs = chart.render({**HOST, "webhook": webhook}).one("ValidatingWebhookConfiguration")[
        "webhooks"
    ]
    assert of_services["namespaceSelector"] == selector
    assert "namespaceSelector" not in of_configs
    for each in (of_services, of_configs):
        assert (each["failurePolicy"], each["timeoutSeconds"]) == ("Fail", 9)


def test_certificates_of_cert_manager(chart: Chart) -> None:
    issuer = {"name": "ours", "kind": "ClusterIssuer"}
    rendered = chart.render({**HOST, "webhook": {"certificates": "certManager", "certManager": {"issuerRef": issuer}}})
    spec = rendered.one("Certificate")["spec"]
    assert spec["secretName"] == "pointsman-webhook-tls"
    assert spec["dnsNames"] == [f"pointsman-webhook.{NAMESPACE}.svc"]
    assert spec["issuerRef"] == issuer
    assert "--webhook-certificates=secret" in rendered.operator()["args"]


def test_one_replica_has_no_disruption_budget(chart: Chart) -> None:
    assert not chart.render(with_value("operator.replicas", 1)).of("PodDisruptionBudget")
    assert not chart.render(with_value("operator.podDisruptionBudget.enabled", value=False)).of("PodDisruptionBudget")


def test_the_operator_on_the_hosts_network(chart: Chart) -> None:
    spec = chart.render(with_value("operator.hostNetwork", value=True)).one("Deployment")["spec"]
    assert spec["template"]["spec"]["hostNetwork"] is True
    assert spec["strategy"] == {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}


def test_the_network_policy(chart: Chart) -> None:
    values = {**HOST, "networkPolicy": {"enabled": True, "apiServerCIDRs": ["192.0.2.10/32", "fd00::1/128"]}}
    spec = chart.render(values).one("NetworkPolicy")["spec"]
    assert spec["policyTypes"] == ["Ingress"]
    assert spec["ingress"] == [
        {"ports": [{"port": 8080}]},
        {
            "ports": [{"port": 9443}],
            "from": [{"ipBlock": {"cidr": "192.0.2.10/32"}}, {"ipBlock": {"cidr": "fd00::1/128"}}],
        },
    ]


def test_without_the_admission_policy(chart: Chart) -> None:
    assert "ValidatingAdmissionPolicy" not in chart.render(with_value("admissionPolicy.enabled", value=False)).text


def test_metrics_that_are_scraped_answer_on_all_addresses(chart: Chart) -> None:
    rendered = chart.render(
        {**HOST, "metrics": {"serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}}}}
    )
    assert "--metrics-address=:10249" in rendered.agent()["args"]
    ports = {"pointsman-agent": 10249, "pointsman-operator": 8080}
    monitors = rendered.of("ServiceMonitor")
    assert set(monitors) == set(ports)
    for name, port in ports.items():
        service = rendered.of("Service")[name]
        assert service["spec"]["clusterIP"] == "None"
        assert service["spec"]["ports"] == [{"name": "metrics", "port": port}]
        assert monitors[name]["metadata"]["labels"]["release"] == "prometheus"
        assert found_by(monitors[name], service)
        assert [endpoint["port"] for endpoint in monitors[name]["spec"]["endpoints"]] == ["metrics"]
    # Connections are those of a Service that is named, not of the one that is scraped.
    assert monitors["pointsman-agent"]["spec"]["endpoints"][0]["honorLabels"] is True


def found_by(monitor: Document, service: Document) -> bool:
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    return bool(wanted <= service["metadata"]["labels"].items())


def test_ports_and_directories_that_only_look_alike_are_let_through(chart: Chart) -> None:
    values = {**HOST, "webhook": {"enabled": False}, "operator": {"healthPort": 9443}}
    rendered = chart.render(with_value("agent.stateDir", "/etc/pointsman-state", values))
    assert "--healthz-address=:9443" in rendered.operator()["args"]
    assert "--state-dir=/etc/pointsman-state" in rendered.agent()["args"]


@pytest.mark.parametrize("address", ["fd00::1", "[fd00::1]"])
def test_metrics_on_an_address(chart: Chart, address: str) -> None:
    metrics = {"bindAddress": address, "port": 10250}
    assert "--metrics-address=[fd00::1]:10250" in chart.render({**HOST, "metrics": metrics}).agent()["args"]


def test_the_dashboard(chart: Chart) -> None:
    made = chart.render(with_value("metrics.dashboard.enabled", value=True)).of("ConfigMap")["pointsman-dashboard"]
    assert made["metadata"]["labels"]["grafana_dashboard"] == "1"
    committed = json.loads((CHART / "files" / "dashboard.json").read_text("utf-8"))
    assert json.loads(made["data"]["pointsman.json"]) == committed


@pytest.mark.parametrize(("replicas", "warned"), [(1, True), (2, False)])
def test_the_notes_warn_of_a_strict_webhook_with_one_replica(chart: Chart, replicas: int, *, warned: bool) -> None:
    values = {**HOST, "webhook": {"failurePolicy": "Fail"}, "operator": {"replicas": replicas}}
    done = chart.run("install", "pointsman", str(CHART), "--dry-run=client", values=values)
    assert done.returncode == 0, done.stderr
    assert ("WARNING: webhook.failurePolicy is Fail with operator.replicas 1" in done.stdout) is warned


def test_replicas_that_are_not_ready_do_not_block_a_drain(chart: Chart) -> None:
    spec = chart.render().one("PodDisruptionBudget")["spec"]
    assert (spec["maxUnavailable"], spec["unhealthyPodEvictionPolicy"]) == (1, "AlwaysAllow")


def test_the_notes_show_the_logs_of_all_agents(chart: Chart) -> None:
    said = chart.run(
        "install", "pointsman", str(CHART), "--namespace", NAMESPACE, "--dry-run=client", values=HOST
    ).stdout
    (shown,) = [line for line in said.splitlines() if " logs " in line]
    selector = shown.partition(" -l ")[2].split()[0]
    key, _, value = selector.partition("=")
    assert "--prefix" in shown
    assert chart.render().one("DaemonSet")["spec"]["template"]["metadata"]["labels"][key] == value


SECTIONS: Final = sorted({path.rpartition(".")[0] for path in LEAVES if "." in path})


@pytest.mark.parametrize("path", SECTIONS)
def test_a_section_that_is_null_is_refused_by_name(chart: Chart, path: str) -> None:
    above, _, name = path.rpartition(".")
    said = chart.refusal(with_value(path, None))
    assert f"at '/{above}': missing property '{name}'".replace("'/'", "''") in said


@pytest.mark.parametrize("path", LEAVES)
def test_a_value_that_is_null_is_absent_or_refused_by_name(chart: Chart, path: str) -> None:
    done = chart.run("template", "pointsman", str(CHART), values=with_value(path, None, EVERYTHING))
    above, _, name = path.rpartition(".")
    refused = f"at '/{above.replace('.', '/')}': missing property '{name}'".replace("'/'", "''")
    if done.returncode:
        assert refused in done.stderr or f"{path}.name is empty" in done.stderr or f"{path} is empty" in done.stderr
    else:
        assert "<nil>" not in done.stdout
        assert None not in list(inner_values(Rendered(done.stdout).documents))


def inner_values(node: object) -> Iterator[object]:
    if isinstance(node, dict):
        node = list(node.values())
    if not isinstance(node, list):
        yield node
        return
    for inner in node:
        yield from inner_values(inner)
