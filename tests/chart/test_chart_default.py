"""What the chart makes unless it is told otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml

from pointsman import __version__
from pointsman.api import permissions
from pointsman.api.webhooks import webhook_configuration
from support.charts import CHART, HOST, NAMESPACE, container, with_value

if TYPE_CHECKING:
    from support.charts import Chart, Document, Rendered

CLUSTER_SCOPED: Final = {
    "ClusterRole", "ClusterRoleBinding", "ProxyConfig", "ValidatingWebhookConfiguration",
    "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding",
}  # fmt: skip
ACCOUNTS: Final = (permissions.AGENT, permissions.OPERATOR, permissions.UNINSTALLER, permissions.CRDS)
HOOKS: Final = {"pointsman-crds": "pre-install,pre-upgrade", "pointsman-uninstaller": "pre-delete"}


@pytest.fixture(scope="module")
def default(chart: Chart) -> Rendered:
    return chart.render()


def without_metadata(document: Document) -> Document:
    return {key: value for key, value in document.items() if key != "metadata"}


def pods(rendered: Rendered) -> dict[str, Document]:
    kinds = ("DaemonSet", "Deployment", "Job")
    return {name: found["spec"]["template"] for kind in kinds for name, found in rendered.of(kind).items()}


def test_helm_finds_nothing_to_criticize(chart: Chart) -> None:
    done = chart.run("lint", "--strict", str(CHART), values=HOST)
    assert done.returncode == 0, done.stdout
    assert "[WARNING]" not in done.stdout
    assert "[ERROR]" not in done.stdout


def test_the_objects(default: Rendered) -> None:
    found: dict[str, list[str]] = {}
    for document in default:
        found.setdefault(document["kind"], []).append(document["metadata"]["name"])
    assert {kind: sorted(names) for kind, names in found.items()} == {
        "ServiceAccount": ["pointsman-agent", "pointsman-crds", "pointsman-operator", "pointsman-uninstaller"],
        "ClusterRole": ["pointsman-agent", "pointsman-crds", "pointsman-operator"],
        "ClusterRoleBinding": ["pointsman-agent", "pointsman-crds", "pointsman-operator"],
        "Role": ["pointsman-agent", "pointsman-operator", "pointsman-uninstaller"],
        "RoleBinding": ["pointsman-agent", "pointsman-operator", "pointsman-uninstaller"],
        "DaemonSet": ["pointsman-agent"],
        "Deployment": ["pointsman-operator"],
        "PodDisruptionBudget": ["pointsman-operator"],
        "Service": ["pointsman-webhook"],
        "ValidatingWebhookConfiguration": ["pointsman"],
        "ValidatingAdmissionPolicy": ["pointsman-agent"],
        "ValidatingAdmissionPolicyBinding": ["pointsman-agent"],
        "ProxyConfig": ["default"],
        "Job": ["pointsman-crds", "pointsman-uninstaller"],
    }


def test_every_object_says_where_it_belongs(default: Rendered) -> None:
    for document in default:
        metadata = document["metadata"]
        assert metadata.get("namespace") == (None if document["kind"] in CLUSTER_SCOPED else NAMESPACE), document
        labels = metadata["labels"]
        assert labels["app.kubernetes.io/name"] == "pointsman"
        assert labels["app.kubernetes.io/managed-by"] == "Helm"
        assert labels["app.kubernetes.io/version"] == __version__
        assert labels["helm.sh/chart"] == f"pointsman-{__version__}"
        assert labels["app.kubernetes.io/component"]


def test_selectors_find_the_pods(default: Rendered) -> None:
    for workload in (default.one("DaemonSet"), default.one("Deployment")):
        wanted = workload["spec"]["selector"]["matchLabels"]
        assert wanted.items() <= workload["spec"]["template"]["metadata"]["labels"].items()
    operator = default.one("Deployment")["spec"]["template"]
    selecting = [default.one("Service")["spec"]["selector"]]
    selecting.append(default.one("PodDisruptionBudget")["spec"]["selector"]["matchLabels"])
    selecting += [each["labelSelector"]["matchLabels"] for each in operator["spec"]["topologySpreadConstraints"]]
    for selector in selecting:
        assert selector.items() <= operator["metadata"]["labels"].items()
        assert not selector.items() <= default.one("DaemonSet")["spec"]["template"]["metadata"]["labels"].items()


@pytest.mark.parametrize("granted", ACCOUNTS, ids=lambda granted: granted.component)
def test_rights_are_those_of_the_permissions(default: Rendered, granted: permissions.Permissions) -> None:
    wanted = permissions.granted(granted, NAMESPACE)
    for document in wanted:
        name, kind = document["metadata"]["name"], document["kind"]
        found = without_metadata(default.of(kind)[name])
        if kind == "ServiceAccount":
            assert found.pop("automountServiceAccountToken") is False
        assert found == without_metadata(document)
    kinds = {"ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"}
    made = [found for found in default if found["kind"] in kinds and found["metadata"]["name"] == granted.account]
    assert len(made) == len(wanted)


def test_nobody_else_has_rights(default: Rendered) -> None:
    names = {granted.account for granted in ACCOUNTS}
    assert set(default.of("ServiceAccount")) == names
    assert {template["spec"]["serviceAccountName"] for template in pods(default).values()} == names


def test_the_webhook_is_the_one_that_the_operator_serves(default: Rendered) -> None:
    client = {"service": {"name": "pointsman-webhook", "namespace": NAMESPACE}}
    wanted = webhook_configuration(client_config=client, namespace=NAMESPACE)
    found = default.one("ValidatingWebhookConfiguration")
    assert found["webhooks"] == wanted["webhooks"]
    assert found["metadata"]["name"] == wanted["metadata"]["name"]


def test_nobody_but_the_operator_writes_the_ca_bundle(default: Rendered) -> None:
    assert "caBundle" not in default.text


def test_nothing_is_privileged(default: Rendered) -> None:
    assert "privileged" not in default.text
    for name, template in pods(default).items():
        assert not {"hostPID", "hostIPC"} & set(template["spec"]), name
        (only,) = template["spec"]["containers"]
        context = only["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert context["capabilities"]["drop"] == ["ALL"]
        if name == "pointsman-agent":
            assert context["capabilities"]["add"] == ["NET_ADMIN"]
            assert context["runAsUser"] == 0
        else:
            assert "add" not in context["capabilities"]
            assert (context["runAsNonRoot"], context["runAsUser"]) == (True, 65532)
            assert not template["spec"].get("volumes")


def test_every_container_has_requests_and_a_limit_of_memory(default: Rendered) -> None:
    for name, template in pods(default).items():
        resources = template["spec"]["containers"][0]["resources"]
        assert set(resources["requests"]) == {"cpu", "memory"}, name
        assert set(resources["limits"]) == {"memory"}, name


def test_what_the_agent_is_told(default: Rendered) -> None:
    assert default.agent()["args"] == [
        "agent",
        "--in-cluster",
        "--server=https://192.0.2.10:6443",
        f"--namespace={NAMESPACE}",
        "--node-name=$(NODE_NAME)",
        "--state-dir=/var/lib/pointsman",
        "--healthz-address=:10256",
        "--metrics-address=127.0.0.1:10249",
        "--sysctl-root=/host/proc/sys",
        "--clean-up-with=pointsman-agent",
        "--log-format=text",
    ]


def test_what_the_operator_is_told(default: Rendered) -> None:
    assert default.operator()["args"] == [
        "operator",
        "--in-cluster",
        "--server=https://192.0.2.10:6443",
        f"--namespace={NAMESPACE}",
        "--healthz-address=:8080",
        "--webhook-address=:9443",
        "--webhook-certificates=own",
        "--log-format=text",
    ]


def test_agents_are_everywhere_and_claim_no_port(default: Rendered) -> None:
    spec = default.one("DaemonSet")["spec"]["template"]["spec"]
    assert spec["hostNetwork"] is True
    assert spec["dnsPolicy"] == "Default"
    assert spec["priorityClassName"] == "system-node-critical"
    assert spec["tolerations"] == [{"operator": "Exists"}]
    assert "ports" not in default.agent()
    paths = {volume["name"]: volume["hostPath"] for volume in spec["volumes"]}
    assert paths == {
        "state": {"path": "/var/lib/pointsman", "type": "DirectoryOrCreate"},
        "sysctls": {"path": "/proc/sys/net", "type": "Directory"},
    }
    mounts = {mount["name"]: mount["mountPath"] for mount in default.agent()["volumeMounts"]}
    assert mounts == {"state": "/var/lib/pointsman", "sysctls": "/host/proc/sys/net"}


def test_probes(default: Rendered) -> None:
    probes = {
        name: [only[probe]["httpGet"] for probe in ("livenessProbe", "readinessProbe")]
        for name, only in (("agent", default.agent()), ("operator", default.operator()))
    }
    assert probes == {
        "agent": [{"path": "/livez", "port": 10256}, {"path": "/healthz", "port": 10256}],
        "operator": [{"path": "/livez", "port": "healthz"}, {"path": "/readyz", "port": "healthz"}],
    }
    ports = {port["name"]: port["containerPort"] for port in default.operator()["ports"]}
    assert ports == {"healthz": 8080, "webhook": 9443}


@pytest.mark.parametrize(("job", "hook"), HOOKS.items())
def test_hooks_come_with_their_rights_and_leave_nothing(default: Rendered, job: str, hook: str) -> None:
    weights = {}
    for document in default:
        if document["metadata"]["name"] == job:
            annotations = document["metadata"]["annotations"]
            assert annotations["helm.sh/hook"] == hook
            assert annotations["helm.sh/hook-delete-policy"] == "before-hook-creation,hook-succeeded"
            weights[document["kind"]] = int(annotations["helm.sh/hook-weight"])
    assert weights.pop("Job") > max(weights.values())


def test_hooks_need_no_network_but_the_hosts(default: Rendered) -> None:
    commands = {}
    for name, job in default.of("Job").items():
        spec = job["spec"]["template"]["spec"]
        assert spec["hostNetwork"] is True
        assert spec["tolerations"] == [{"operator": "Exists"}]
        assert spec["restartPolicy"] == "Never"
        commands[name] = container(job)["args"]
    server = ["--in-cluster", "--server=https://192.0.2.10:6443"]
    assert commands == {
        "pointsman-crds": ["crds", "--apply", *server],
        "pointsman-uninstaller": [
            "uninstall", f"--namespace={NAMESPACE}", "--daemonset=pointsman-agent", "--timeout=240", *server,
        ],
    }  # fmt: skip


def test_nothing_but_hooks_is_a_hook(default: Rendered) -> None:
    hooked = {found["metadata"]["name"] for found in default if "annotations" in found["metadata"]}
    assert hooked == set(HOOKS)


def test_the_release_may_be_in_kube_system(chart: Chart) -> None:
    rendered = chart.render(namespace="kube-system")
    (expression,) = rendered.one("ValidatingWebhookConfiguration")["webhooks"][0]["namespaceSelector"][
        "matchExpressions"
    ]
    assert expression["values"] == ["kube-system"]


@pytest.mark.parametrize(
    ("host", "server"),
    [
        ("fd00::1", "https://[fd00::1]:6443"),
        ("[fd00::1]", "https://[fd00::1]:6443"),
        ("api.example.com", "https://api.example.com:6443"),
    ],
)
def test_hosts_of_the_api_server(chart: Chart, host: str, server: str) -> None:
    rendered = chart.render({"apiServer": {"host": host}})
    every = [container(found) for kind in ("DaemonSet", "Deployment", "Job") for found in rendered.of(kind).values()]
    assert len(every) == 4
    assert all(f"--server={server}" in only["args"] for only in every)


def test_custom_resources_come_with_the_chart(chart: Chart) -> None:
    rendered = chart.render(HOST, "--include-crds")
    wanted = [yaml.safe_load(file.read_text("utf-8")) for file in sorted((CHART / "crds").iterdir())]
    assert list(rendered.of("CustomResourceDefinition").values()) == wanted


def test_a_second_chart_version_alone_replaces_no_pods(default: Rendered) -> None:
    for name, template in pods(default).items():
        labels: dict[str, Any] = template["metadata"]["labels"]
        assert not {"helm.sh/chart", "app.kubernetes.io/version"} & set(labels), name


def test_common_labels_are_on_everything_and_change_no_selector(chart: Chart) -> None:
    labels = {"team": "network", "app.kubernetes.io/name": "other"}
    rendered = chart.render(with_value("commonLabels", labels))
    for document in rendered:
        assert document["metadata"]["labels"]["team"] == "network"
        assert document["metadata"]["labels"]["app.kubernetes.io/name"] == "pointsman"
    assert all(template["metadata"]["labels"]["team"] == "network" for template in pods(rendered).values())
    assert "team" not in rendered.one("DaemonSet")["spec"]["selector"]["matchLabels"]
