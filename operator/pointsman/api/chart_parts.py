"""What several of the chart's values are made of."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from pointsman.api.resource import field_name

LogFormat = Literal["text", "json"]
AnyMapping = dict[str, Any]
"""Something of Kubernetes' own; the API server checks it."""
Texts = dict[str, str]
Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[int, Field(ge=0, le=86400)]
IntOrShare = Annotated[int, Field(ge=1)] | Annotated[str, Field(pattern="^([1-9][0-9]?|100)%$")]
EVERYWHERE: Final[list[AnyMapping]] = [{"operator": "Exists"}]
"""Tolerates every taint."""


class Piece(BaseModel):
    """A part of the values: what is not in it is refused."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=field_name,
        populate_by_name=True,
        use_attribute_docstrings=True,
    )


class Resources(Piece):
    """A container's resources."""

    requests: dict[str, str | float] = Field(default_factory=dict)
    """What a node has to have free."""

    limits: dict[str, str | float] = Field(default_factory=dict)
    """What it may take at most."""


class Pod(Piece):
    """What agent and operator have in common."""

    verbose: bool = False
    """Log every sync and every decision."""

    extra_args: list[str] = Field(default_factory=list)
    """More options, as `pointsman agent --help` and `pointsman operator --help` have them."""

    extra_env: list[AnyMapping] = Field(default_factory=list)
    """More environment variables (`name` and `value` or `valueFrom`)."""

    pod_labels: Texts = Field(default_factory=dict)
    """Labels of the Pods."""

    pod_annotations: Texts = Field(default_factory=dict)
    """Annotations of the Pods."""

    node_selector: Texts = Field(default={"kubernetes.io/os": "linux"})
    """Labels of the nodes that they run on."""

    affinity: AnyMapping = Field(default_factory=dict)
    """Affinity of the Pods."""
