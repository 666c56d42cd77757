"""Names that users write: the API group, modes, annotations."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Iterable

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

BuiltInMode = Literal["nftables", "ipvs", "iptables", "userspace"]
"""A dataplane of Pointsman's own."""

Mode = str
"""A dataplane, as ``spec.mode`` names it: one of `MODES`, or one that somebody else made (`is_own_name`)."""

MODES: Final[tuple[Mode, ...]] = get_args(BuiltInMode)

MAX_NAME_LENGTH: Final = 63
"""Characters in the name of a mode or scheduler."""

_LABEL: Final = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
OWN_NAME_PATTERN: Final = f"{_LABEL}([.]{_LABEL})+/[a-z0-9]([-a-z0-9._]*[a-z0-9])?"
"""A name with a domain before it, as Kubernetes has it for what vendors add."""
_OWN_NAME: Final = re.compile(OWN_NAME_PATTERN)

OWN_NAME_ALLOWED: Final = "one of your own as example.com/name"


def is_own_name(name: str) -> bool:
    """Tell whether a mode or scheduler is somebody's own, and no part of Pointsman: whether it is there, nodes know."""
    return len(name) <= MAX_NAME_LENGTH and _OWN_NAME.fullmatch(name) is not None


def in_order(modes: Iterable[Mode]) -> tuple[Mode, ...]:
    """Return each mode once: Pointsman's in the order of `MODES`, then all others by name."""
    return tuple(sorted(set(modes), key=lambda mode: (MODES.index(mode) if mode in MODES else len(MODES), mode)))


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
