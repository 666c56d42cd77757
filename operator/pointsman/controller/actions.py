"""What the operator writes into the cluster, as data: `pointsman.controller.reconcile` decides, the writer does it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pointsman.api.nodeproxy import NodeProxySpec
    from pointsman.api.status import Condition, ProxyConfigStatus
    from pointsman.model.objects import ObjectKey


@dataclass(frozen=True, slots=True)
class CreateNodeProxy:
    """Make the NodeProxy of a node.

    Attributes:
        node: the node's name, and the NodeProxy's.
        node_uid: for the ownerReference.
        spec: what the node is to do.
    """

    node: str
    node_uid: str
    spec: NodeProxySpec


@dataclass(frozen=True, slots=True)
class UpdateNodeProxy:
    """Change the spec of a NodeProxy.

    Attributes:
        node: its name.
        spec: what the node is to do now.
        resource_version: of the NodeProxy that this was decided on; a newer one is a conflict, and decided anew.
    """

    node: str
    spec: NodeProxySpec
    resource_version: int


@dataclass(frozen=True, slots=True)
class DeleteNodeProxy:
    """Delete the NodeProxy of a node that is gone, or that no ProxyConfig selects any more."""

    node: str


@dataclass(frozen=True, slots=True)
class PatchProxyConfigStatus:
    """Replace the whole status of a ProxyConfig."""

    name: str
    status: ProxyConfigStatus


@dataclass(frozen=True, slots=True)
class PatchNodeProxyStatus:
    """Replace the conditions in the status of a NodeProxy whose agent is silent.

    Attributes:
        node: its name.
        conditions: all of them.
        resource_version: of the NodeProxy that this was decided on; the agent may have come back meanwhile.
    """

    node: str
    conditions: tuple[Condition, ...]
    resource_version: int


@dataclass(frozen=True, slots=True)
class PatchServiceCondition:
    """Write the condition `pointsman.dev/Programmed` of a Service, and leave its other conditions alone.

    Attributes:
        namespace: of the Service.
        name: of the Service.
        condition: the new one; None: take it away.
    """

    namespace: str
    name: str
    condition: Condition | None


@dataclass(frozen=True, slots=True)
class SendEvent:
    """Tell of something that is wrong, as an event of type Warning.

    Attributes:
        regarding: the object.
        uid: its `metadata.uid`, or "".
        reason: why, as one word for programs.
        message: why, for people.
        key: the same for the same problem of the same object, also after a restart: an event that is named after it
            is not told twice.
    """

    regarding: ObjectKey
    uid: str
    reason: str
    message: str
    key: str


Action = (
    CreateNodeProxy
    | UpdateNodeProxy
    | DeleteNodeProxy
    | PatchProxyConfigStatus
    | PatchNodeProxyStatus
    | PatchServiceCondition
    | SendEvent
)
"""Everything that the operator does."""
