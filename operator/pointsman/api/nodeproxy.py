"""The custom resource NodeProxy: what one node does, and what came of it."""

from __future__ import annotations

from pydantic import AliasPath, Field

from pointsman.api.proxyconfig import NodeConfiguration, ProxyConfig
from pointsman.api.resource import Part, read_document
from pointsman.api.status import NodeProxyStatus


class NodeProxySpec(NodeConfiguration):
    """The configuration of one node, with every default written out; the operator writes it."""

    proxy_config: str = ""
    """The ProxyConfig that it comes from."""


class NodeProxy(Part):
    """What one node does, and what came of it. Named after its Node, cluster-scoped, short name `npx`.

    The operator writes the spec from the node's ProxyConfig (change that one), the node's agent writes the status:
    `kubectl get npx` says for each node what its kernel holds.
    """

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

        What is wrong in its `status` is left out: it must not keep a node from its configuration.

        Raises:
            pydantic.ValidationError: what is wrong; `pointsman.api.errors.validation_problems` says it for people.
        """
        return read_document(cls, document)


def resolve(config: ProxyConfig) -> NodeProxySpec:
    """Write out what a ProxyConfig means for a node that it is for."""
    shared = {name: getattr(config.spec, name) for name in NodeConfiguration.model_fields}
    return NodeProxySpec(**shared, proxy_config=config.name)
