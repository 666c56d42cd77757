"""How every part of a custom resource is typed."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict

_WRITTEN: Final = {"cidrs": "CIDRs", "arp": "ARP"}
"""Words that Kubernetes does not write in camel case."""


def field_name(name: str) -> str:
    """Turn ``pod_cidrs`` into ``podCIDRs``: the name that users write."""
    first, *rest = name.split("_")
    return first + "".join(_WRITTEN.get(word, word.capitalize()) for word in rest)


class Part(BaseModel):
    """A part of a resource: immutable, unknown fields ignored, camelCase in documents, snake_case in Python."""

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        alias_generator=field_name,
        populate_by_name=True,
        use_attribute_docstrings=True,
    )
