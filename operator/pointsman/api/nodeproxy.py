"""The custom resource NodeProxy: what one node does, and what came of it."""

from __future__ import annotations

from pydantic import AliasPath, Field
from pydantic_core import to_json

from pointsman.api.proxyconfig import NodeConfiguration, ProxyConfig, without_nulls
from pointsman.api.resource import Part
from pointsman.api.status import NodeProxyStatus


class NodeProxySpec(NodeConfiguration):
    """The configuration of one node, with every default written out; the operator writes it."""

    proxy_config: str = ""
    """The ProxyConfig that it comes from."""


class NodeProxy(Part):
    """A NodeProxy object, named after its Node; cluster-scoped, short name `npx`."""

    name: str = Field(min_length=1, validation_alias=AliasPath("metadata", "name"))
    """`metadata.name`: the node's name."""

    generation: int = Field(default=0, validation_alias=AliasPath("metadata", "generation"))
    """`metadata.generation`."""

    uid: str = Field(default="", validation_alias=AliasPath("metadata", "uid"))
    """`metadata.uid`."""

    spec: NodeProxySpec = NodeProxySpec()
    """What the node is to do."""

    status: NodeProxyStatus = NodeProxyStatus()
    """What it has done."""

    @classmethod
    def read(cls, document: object) -> NodeProxy:
        """Read a NodeProxy document: plain data as a JSON or YAML reader gives it.

        Raises:
            pydantic.ValidationError: what is wrong; `pointsman.api.errors.validation_problems` says it for people.
        """
        return cls.model_validate_json(to_json(without_nulls(document)), strict=True)


def resolve(config: ProxyConfig) -> NodeProxySpec:
    """Write out what a ProxyConfig means for a node that it is for."""
    shared = {name: getattr(config.spec, name) for name in NodeConfiguration.model_fields}
    return NodeProxySpec(**shared, proxy_config=config.name)
