"""Deleting the agents' DaemonSet, and waiting until every agent is gone: they remove their rules at their end.

An agent that has removed everything gives its Lease back; one that was killed, or that could not ask the API server
whether it is uninstalled, does not, and its node is named.
"""

from __future__ import annotations

from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import msgspec

from pointsman.api.names import AGENT_LEASE_PREFIX
from pointsman.install.patience import InstallError
from pointsman.sources.apiserver.client import ApiError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pointsman.install.patience import Patience, Requests

_FOREGROUND: Final = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Foreground"}
"""The DaemonSet stays until its Pods are gone, so that each agent finds it on its way out."""
_SAY_EVERY: Final = 5
"""Looks (of a second) from one line of progress to the next."""
_NAMED: Final = 10


class _Owner(msgspec.Struct):
    kind: str
    name: str


class _Metadata(msgspec.Struct, rename="camel"):
    name: str
    owner_references: list[_Owner] | None = None


class _Spec(msgspec.Struct, rename="camel"):
    node_name: str = ""


class _Pod(msgspec.Struct):
    metadata: _Metadata
    spec: _Spec


class _LeaseSpec(msgspec.Struct, rename="camel"):
    holder_identity: str | None = None


class _Lease(msgspec.Struct):
    metadata: _Metadata
    spec: _LeaseSpec = msgspec.field(default_factory=_LeaseSpec)


class _Leases(msgspec.Struct):
    items: list[_Lease]


class _Pods(msgspec.Struct):
    items: list[_Pod]


async def uninstall(
    client: Requests, namespace: str, name: str, patience: Patience, say: Callable[[str], None]
) -> None:
    """Delete a DaemonSet and wait until it and its Pods are gone; one that is gone already is well.

    Args:
        client: of the API server.
        namespace: of the DaemonSet.
        name: of the DaemonSet.
        patience: how long to wait.
        say: told how it goes.

    Raises:
        InstallError: the API server refuses, or agents are left when no time is, or an agent has left its rules.
    """
    agents = _Agents(client, namespace, name, patience)
    say(f"{agents.title} {'is being deleted' if await agents.delete() else 'is gone already'}")
    looks = 0
    while (nodes := await agents.nodes()) or await agents.has_owner():
        if patience.is_over:
            raise InstallError(_left(nodes, agents.title, patience.seconds))
        if looks % _SAY_EVERY == 0:
            say(f"waiting for the agents of {_listed(nodes)}" if nodes else f"waiting for the end of {agents.title}")
        looks += 1
        await patience.pause()
    if unclean := await agents.left_rules():
        raise InstallError(_unclean(unclean, namespace))
    say("every agent is gone, and has removed what it put into its node's kernel")


class _Agents:
    """A DaemonSet and its Pods."""

    def __init__(self, client: Requests, namespace: str, name: str, patience: Patience) -> None:
        self.title = f"DaemonSet {namespace}/{name}"
        self._client = client
        self._name = name
        self._path = f"/apis/apps/v1/namespaces/{namespace}/daemonsets/{name}"
        self._pods = f"/api/v1/namespaces/{namespace}/pods"
        self._leases = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._patience = patience

    async def delete(self) -> bool:
        """Delete the DaemonSet; tell whether it was there."""
        request = partial(self._client.delete, self._path, None, _FOREGROUND)
        try:
            await self._patience.ask(request, f"delete daemonsets.apps of the name {self._name}")
        except ApiError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return False
            raise
        return True

    async def has_owner(self) -> bool:
        """Tell whether the DaemonSet is still there."""
        request = partial(self._client.get, self._path)
        try:
            await self._patience.ask(request, f"get daemonsets.apps of the name {self._name}")
        except ApiError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return False
            raise
        return True

    async def nodes(self) -> tuple[str, ...]:
        """Return the nodes that have a Pod of the DaemonSet, sorted."""
        answer = await self._patience.ask(partial(self._client.get, self._pods), "list pods")
        pods = msgspec.json.decode(answer, type=_Pods).items
        return tuple(sorted({pod.spec.node_name or pod.metadata.name for pod in pods if self._owns(pod)}))

    async def left_rules(self) -> tuple[str, ...]:
        """Return the nodes whose agent has not said that it removed everything, sorted."""
        answer = await self._patience.ask(partial(self._client.get, self._leases), "list leases.coordination.k8s.io")
        leases = msgspec.json.decode(answer, type=_Leases).items
        held = (lease.metadata.name for lease in leases if lease.spec.holder_identity)
        return tuple(sorted(n.removeprefix(AGENT_LEASE_PREFIX) for n in held if n.startswith(AGENT_LEASE_PREFIX)))

    def _owns(self, pod: _Pod) -> bool:
        owners = pod.metadata.owner_references or ()
        return any((owner.kind, owner.name) == ("DaemonSet", self._name) for owner in owners)


def _left(nodes: tuple[str, ...], title: str, seconds: float) -> str:
    if not nodes:
        return f"{title} is still there after {seconds:g} s, without a Pod: look at its finalizers"
    return (
        f"after {seconds:g} s there are still agents on {_listed(nodes)}: look at these (kubectl get pods -o wide). "
        "The rules there stay in force until the agent has ended well; where that cannot be, run `pointsman cleanup` "
        "on the node"
    )


def _unclean(nodes: tuple[str, ...], namespace: str) -> str:
    return (
        f"the agents of {_listed(nodes)} have ended without removing their rules, which stay in force there. On each: "
        "nft delete table ip pointsman; nft delete table ip6 pointsman; then kubectl -n "
        f"{namespace} delete lease {AGENT_LEASE_PREFIX}NODE. Or leave them so: helm uninstall --no-hooks"
    )


def _listed(nodes: Iterable[str]) -> str:
    every = list(nodes)
    more = f" and {len(every) - _NAMED} more" if len(every) > _NAMED else ""
    word = "node" if len(every) == 1 else "nodes"
    return f"{len(every)} {word}: {', '.join(every[:_NAMED])}{more}"
