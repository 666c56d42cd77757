"""Names that users write: the API group, modes, annotations."""

from __future__ import annotations

from typing import Final, Literal, get_args

GROUP: Final = "pointsman.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"

WEIGHT_ANNOTATION: Final = "pointsman.dev/weight"
"""On an EndpointSlice or Endpoints, and as a label on a Pod: the share of new connections, 0..`MAX_WEIGHT`.

0 drains."""

SCHEDULER_ANNOTATION: Final = "pointsman.dev/scheduler"
"""On a Service: how a backend is chosen; it wins over `ProxyConfig.spec.scheduler`."""

SCHEDULER_FLAGS_ANNOTATION: Final = "pointsman.dev/scheduler-flags"
"""On a Service: variants of its scheduler, with commas between them; it wins over `spec.ipvs.schedulerFlags`."""

MAX_WEIGHT: Final = 256

Mode = Literal["nftables", "ipvs", "iptables", "userspace"]
"""A dataplane, as ``spec.mode`` names it."""

MODES: Final[tuple[Mode, ...]] = get_args(Mode)

AGENT_DAEMON_SET: Final = "pointsman-agent"
"""Name of the DaemonSet of the agents, in Pointsman's own namespace."""

OPERATOR_DEPLOYMENT: Final = "pointsman-operator"
"""Name of the Deployment of the operator, in Pointsman's own namespace."""

AGENT_LEASE_PREFIX: Final = "pointsman-agent-"
"""Of the Lease that a node's agent renews, before the node's name. One without a holder: the agent has left nothing."""

WEBHOOK_CONFIGURATION: Final = "pointsman"
"""Name of the ValidatingWebhookConfiguration."""

WEBHOOK_SERVICE: Final = "pointsman-webhook"
"""Name of the Service that leads the API server to the webhook, in Pointsman's own namespace."""

WEBHOOK_SECRET: Final = "pointsman-webhook-tls"  # noqa: S105 (a name, no secret)
"""Name of the Secret that holds the webhook's certificates, in Pointsman's own namespace."""
