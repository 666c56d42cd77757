"""What is written into the `status` of the custom resources."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field, WithJsonSchema
from pydantic.config import JsonDict  # noqa: TC002 (beside the imports that are needed)

from pointsman.api.fields import ReportedMode  # noqa: TC001 (pydantic reads the annotations)
from pointsman.api.resource import Part

ConditionStatus = Literal["True", "False", "Unknown"]
Timestamp = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]
"""RFC 3339."""

_BY_TYPE: Final[JsonDict] = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
"""Each writer of conditions keeps its own ones in server-side apply."""
_BY_MODE: Final[JsonDict] = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["mode"]}


class Condition(Part):
    """A `metav1.Condition`."""

    type: str
    """What it is about."""

    status: ConditionStatus
    """Whether it holds."""

    reason: str
    """Why, as one word for programs."""

    message: str = ""
    """Why, for people."""

    last_transition_time: Timestamp
    """When `status` changed last (RFC 3339)."""

    observed_generation: int = 0
    """The `metadata.generation` that this is said of."""


class ReportedProblem(Part):
    """Something that is wrong, and what to do about it."""

    object: str
    """The object as people say it: `Service default/web`."""

    field: str = ""
    """Path in the object."""

    message: str
    """What is wrong, with the value."""

    remedy: str = ""
    """What to do about it."""


class HeldVersions(Part):
    """The newest resourceVersions that a node's kernel holds; comparable as numbers (KEP-5504)."""

    services: str = ""
    """Of Services."""

    endpoint_slices: str = ""
    """Of EndpointSlices."""


class AgentInfo(Part):
    """The agent that wrote a status."""

    version: str
    """Of Pointsman."""

    started_at: Timestamp
    """When it started (RFC 3339)."""


class NodeProxyStatus(Part):
    """What a node has done; written by its agent alone, but for an `Unknown` when the agent is silent."""

    observed_generation: int = 0
    """The `metadata.generation` of the NodeProxy that is in force; 0 before the first."""

    mode: ReportedMode | None = None
    """The dataplane in force."""

    services: int = 0
    """Services that the kernel holds."""

    endpoints: int = 0
    """Endpoints that the kernel holds."""

    last_sync_time: Timestamp | None = None
    """When the kernel was last brought up to date (RFC 3339)."""

    resource_versions: HeldVersions = HeldVersions()
    """The newest resourceVersions that the kernel holds."""

    problems: tuple[ReportedProblem, ...] = ()
    """What is wrong, at most 20 of them."""

    problem_count: int = 0
    """How many problems there are in all."""

    agent: AgentInfo | None = None
    """The agent that wrote this."""

    conditions: tuple[Condition, ...] = Field(default=(), json_schema_extra=_BY_TYPE)
    """`Ready`: the configuration is in force and the kernel up to date. `ModeInForce`: the mode is the wanted one."""


class NodeCounts(Part):
    """How many nodes a ProxyConfig has."""

    desired: int = 0
    """Nodes that this configuration is for."""

    updated: int = 0
    """Nodes whose NodeProxy says what this configuration says now."""

    ready: int = 0
    """Nodes that are updated, and whose agent reports it in force."""

    summary: str = "0/0"
    """`ready/desired`, for people."""


class ModeCount(Part):
    """How many nodes have a mode in force."""

    mode: ReportedMode
    """The dataplane."""

    nodes: int
    """On how many of the nodes."""


class ProxyConfigStatus(Part):
    """What came of a ProxyConfig; written by the operator."""

    observed_generation: int = 0
    """The `metadata.generation` that this is said of."""

    nodes: NodeCounts = NodeCounts()
    """The nodes that it is for."""

    effective_modes: tuple[ModeCount, ...] = Field(default=(), json_schema_extra=_BY_MODE)
    """The dataplanes in force."""

    problems: tuple[ReportedProblem, ...] = ()
    """What is wrong in the cluster as this configuration sees it, at most 50 of them."""

    problem_count: int = 0
    """How many problems there are in all."""

    conditions: tuple[Condition, ...] = Field(default=(), json_schema_extra=_BY_TYPE)
    """`Ready`: in force on every node. `Progressing`: on its way to nodes. `Degraded`: some node cannot do it."""
