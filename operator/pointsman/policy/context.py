"""What the plan of every Service depends on besides its own objects; pure."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import msgspec

from pointsman.api.names import Mode
from pointsman.api.schedulers import SCHEDULERS
from pointsman.model.address import family_of
from pointsman.model.plan import Family
from pointsman.policy.endpoints import Place
from pointsman.policy.own_schedulers import Scheduler
from pointsman.policy.schedulers import scheduler_in

if TYPE_CHECKING:
    from pointsman.api.proxyconfig import NodeConfiguration
    from pointsman.model.objects import Node
    from pointsman.model.plan import NodeSettings

_NONE: Final[Mapping[str, Scheduler]] = MappingProxyType({})
ZONE_LABEL: Final = "topology.kubernetes.io/zone"


class Context(msgspec.Struct, frozen=True, gc=False):
    """What holds for all Services of this node. When it changes, every Service is planned anew.

    Attributes:
        place: this node's name and zone.
        mode: the dataplane in force.
        wanted_mode: the one that the configuration asks for.
        schedulers: those that the node has in the mode in force.
        scheduler: for Services that ask for none.
        scheduler_flags: likewise.
        masquerade_all: every connection to a cluster IP is masqueraded.
        pod_families: the IP families of which pod networks are known.
        addresses: the node's own addresses.
        own_schedulers: those of somebody's own that are installed, by name; not every mode can use them.
    """

    place: Place
    mode: Mode = "nftables"
    wanted_mode: Mode = "nftables"
    schedulers: tuple[str, ...] = SCHEDULERS["nftables"]
    scheduler: str = "random"
    scheduler_flags: tuple[str, ...] = ()
    masquerade_all: bool = False
    pod_families: frozenset[Family] = frozenset()
    addresses: tuple[str, ...] = ()
    own_schedulers: Mapping[str, Scheduler] = _NONE


def build_context(
    node_name: str,
    config: NodeConfiguration,
    settings: NodeSettings,
    node: Node | None,
    addresses: tuple[str, ...],
    *,
    mode: Mode,
    schedulers: tuple[str, ...],
    own_schedulers: Mapping[str, Scheduler] = _NONE,
) -> Context:
    """Gather the context.

    Args:
        node_name: this node's name.
        config: its configuration.
        settings: as `pointsman.policy.settings.node_settings` made them.
        node: its Node object, if there is one.
        addresses: its own addresses.
        mode: the dataplane in force, whatever the configuration asks for.
        schedulers: those that the node has in this mode.
        own_schedulers: those of somebody's own that are installed, by name.
    """
    labels = dict(node.labels) if node is not None else {}
    return Context(
        place=Place(node_name, labels.get(ZONE_LABEL, "")),
        mode=mode,
        wanted_mode=config.mode,
        schedulers=schedulers,
        scheduler=scheduler_in(config, mode, schedulers),
        scheduler_flags=config.ipvs.scheduler_flags,
        masquerade_all=config.masquerade_all,
        pod_families=frozenset(family_of(cidr) for cidr in settings.pod_cidrs),
        addresses=addresses,
        own_schedulers=own_schedulers,
    )
