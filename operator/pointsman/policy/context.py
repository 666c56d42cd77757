"""What the plan of every Service depends on besides its own objects; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from pointsman.api.names import Mode
from pointsman.model.address import family_of
from pointsman.model.plan import Family
from pointsman.policy.endpoints import Place
from pointsman.policy.settings import scheduler_in

if TYPE_CHECKING:
    from pointsman.api.proxyconfig import NodeConfiguration
    from pointsman.model.objects import Node
    from pointsman.model.plan import NodeSettings

ZONE_LABEL: Final = "topology.kubernetes.io/zone"


class Context(msgspec.Struct, frozen=True, gc=False):
    """What holds for all Services of this node. When it changes, every Service is planned anew.

    Attributes:
        place: this node's name and zone.
        mode: the dataplane in force, which decides what schedulers there are.
        scheduler: for Services that ask for none.
        masquerade_all: every connection to a cluster IP is masqueraded.
        pod_families: the IP families of which pod networks are known.
        addresses: the node's own addresses.
    """

    place: Place
    mode: Mode = "nftables"
    scheduler: str = "random"
    masquerade_all: bool = False
    pod_families: frozenset[Family] = frozenset()
    addresses: tuple[str, ...] = ()


def build_context(
    node_name: str,
    config: NodeConfiguration,
    settings: NodeSettings,
    node: Node | None,
    addresses: tuple[str, ...],
    *,
    mode: Mode,
) -> Context:
    """Gather the context.

    Args:
        node_name: this node's name.
        config: its configuration.
        settings: as `pointsman.policy.settings.node_settings` made them.
        node: its Node object, if there is one.
        addresses: its own addresses.
        mode: the dataplane in force, whatever the configuration asks for.
    """
    labels = dict(node.labels) if node is not None else {}
    return Context(
        place=Place(node_name, labels.get(ZONE_LABEL, "")),
        mode=mode,
        scheduler=scheduler_in(config, mode),
        masquerade_all=config.masquerade_all,
        pod_families=frozenset(family_of(cidr) for cidr in settings.pod_cidrs),
        addresses=addresses,
    )
