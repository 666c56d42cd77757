"""The values of the Helm chart, typed once: `values.yaml`, its schema and the chart's README are made from this.

The descriptions of the fields are what users read. A value that is not here is refused by name.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from pointsman.api.chart_features import AdmissionPolicy, Metrics, NetworkPolicy, Webhook
from pointsman.api.chart_parts import LogFormat, Piece, Port, Resources, Texts
from pointsman.api.chart_programs import Agent, Operator


class ApiServer(Piece):
    """Where agents and operator reach the API server."""

    host: str = ""
    """Address or DNS name of the API server, **required**. It has to work without a Service proxy, so it is none of the
    cluster's own Services: the control plane's load balancer, or a control-plane node. Find it by `kubectl
    cluster-info`. The API server's certificate has to hold it."""

    port: Port = 6443
    """Port of the API server."""


class Image(Piece):
    """Which image runs; agents, operator and hooks share it."""

    repository: str = Field(default="localhost/pointsman", min_length=1)
    """Where the image is. The default is what `podman build` and `buildah build` call an image of your own: push it
    to a registry that your nodes reach, and name it here."""

    tag: str = ""
    """Empty: the chart's `appVersion`."""

    digest: Annotated[str, Field(pattern="^(sha256:[0-9a-f]{64})?$")] = ""
    """`sha256:…`: exactly this image, whatever `tag` says."""

    pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When nodes ask the registry."""

    pull_secrets: list[str] = Field(default_factory=list)
    """Names of Secrets with the registry's credentials, in the release's namespace."""


class ProxyConfig(Piece):
    """The ProxyConfig `default`: how nodes proxy Services."""

    create: bool = True
    """Make it. Without one, the defaults hold on all nodes; later ones are yours to apply."""

    spec: dict[str, Any] = Field(default_factory=dict)
    """Its `spec`, as `docs/configuration.md` and `kubectl explain pxc.spec` have it: `{mode: nftables, podCIDRs:
    [10.244.0.0/16]}`."""


class Crds(Piece):
    """The CustomResourceDefinitions. Helm makes them at the first install, and never removes them."""

    upgrade: bool = True
    """A hook brings them up to date before each install and upgrade, which Helm itself does not. Without it: `kubectl
    apply --server-side -f charts/pointsman/crds`."""


class Hooks(Piece):
    """The Jobs that run before install, upgrade and uninstall."""

    timeout_seconds: Annotated[int, Field(ge=10, le=86400)] = 240
    """How long the one before `helm uninstall` waits for the nodes to be clean; Helm's own `--timeout` (5 minutes)
    should be longer. Then it says which nodes are left: the agents' DaemonSet is deleted by then and the other nodes
    are clean, everything else of the release stays. All of these Jobs are stopped 30 seconds after that time."""

    resources: Resources = Resources(requests={"cpu": "20m", "memory": "64Mi"}, limits={"memory": "256Mi"})
    """Of the Jobs' container."""


class Values(Piece):
    """All values of the chart."""

    api_server: ApiServer = ApiServer()
    """Where agents and operator reach the API server."""

    image: Image = Image()
    """Which image runs; agents, operator and hooks share it."""

    log_format: LogFormat = "text"
    """Log lines for people, or JSON objects."""

    common_labels: Texts = Field(default_factory=dict)
    """Labels of every object."""

    proxy_config: ProxyConfig = ProxyConfig()
    """The ProxyConfig `default`: how nodes proxy Services."""

    agent: Agent = Agent()
    """The node agent: a DaemonSet, on every node."""

    operator: Operator = Operator()
    """The operator: a Deployment. Nodes go on without it."""

    webhook: Webhook = Webhook()
    """The admission webhook."""

    admission_policy: AdmissionPolicy = AdmissionPolicy()
    """What RBAC cannot say."""

    network_policy: NetworkPolicy = NetworkPolicy()
    """Who may connect to the operator's Pods."""

    crds: Crds = Crds()
    """The CustomResourceDefinitions. Helm makes them at the first install, and never removes them."""

    hooks: Hooks = Hooks()
    """The Jobs that run before install, upgrade and uninstall."""

    metrics: Metrics = Metrics()
    """What agents and operator count."""
