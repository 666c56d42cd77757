"""A second look at a refusal, with what the API server says at this moment.

The operator's picture follows watches, and is a moment behind. A Service that takes the node port of one that was
deleted just now, or that comes right behind the labels of its Namespace or a ProxyConfig, would be refused for what is
no longer so. Nothing is refused before the few objects that it hangs on were read once more; only refusals cost this.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any, Final

import msgspec
from pydantic import ValidationError

from pointsman.api.names import API_VERSION
from pointsman.api.proxyconfig import ProxyConfig, ProxyConfigSpec
from pointsman.controller.admission.ranges import effective
from pointsman.controller.admission.review import judge
from pointsman.controller.admission.written import WrittenService, facts
from pointsman.model import raw
from pointsman.sources.apiserver.client import ApiError, Unreachable
from pointsman.sources.protocol import SourceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pointsman.api.values import PortRange
    from pointsman.controller.admission.causes import Verdict
    from pointsman.controller.admission.picture import Picture
    from pointsman.controller.admission.review import Request
    from pointsman.model.objects import Service
    from pointsman.model.plan import Transport
    from pointsman.sources.apiserver.client import ApiClient

_LOG: Final = logging.getLogger(__name__)
_PATIENCE: Final = 2.0
"""Seconds for all that is read; the refusal stands when they are over."""
_MOST_USERS: Final = 20
"""Services that are read, of those that have the refused one's node ports."""
_NOT_FOUND: Final = 404

_NOTHING: Final = b'{"kind":"Namespace"}'

Uses = frozenset[tuple[int, "Transport | None"]]
"""The node ports of a Service."""


class _List(msgspec.Struct):
    items: list[Any] | None = None


class FreshPicture:
    """A picture, with some objects as they are at this moment.

    Args:
        behind: the picture.
        configs: all ProxyConfigs.
        namespace: the one that is asked for.
        labels: its labels.
        uses: what some Services, by ``namespace/name``, have for node ports.
    """

    def __init__(
        self,
        behind: Picture,
        configs: Mapping[str, ProxyConfig],
        namespace: str,
        labels: Mapping[str, str],
        uses: Mapping[str, Uses],
    ) -> None:
        self.configs = configs
        self._behind = behind
        self._namespace = namespace
        self._labels = labels
        self._uses = uses

    def effective_configs(self) -> tuple[ProxyConfig, ...]:
        """Return the ProxyConfigs that some node gets."""
        return effective(self.configs.values(), self._behind.node_labels().values())

    def node_port_ranges(self, namespace: str) -> tuple[tuple[str, PortRange], ...]:
        """Return the ranges that hold in a namespace."""
        labels = self.namespace_labels(namespace)
        found = tuple((config.name, config.spec.node_port_range_in(labels)) for config in self.effective_configs())
        return found or (("", ProxyConfigSpec().node_port_range),)

    def node_port_users(self, port: int, protocol: Transport) -> tuple[str, ...]:
        """Return the Services that have a node port."""
        users = self._behind.node_port_users(port, protocol)
        return tuple(user for user in users if user not in self._uses or (port, protocol) in self._uses[user])

    def node_labels(self) -> Mapping[str, Mapping[str, str]]:
        """Return the labels of each node."""
        return self._behind.node_labels()

    def namespace_labels(self, namespace: str) -> Mapping[str, str]:
        """Return the labels of a namespace."""
        return self._labels if namespace == self._namespace else self._behind.namespace_labels(namespace)

    def node_port_services(self) -> Iterable[Service]:
        """Return the Services that have node ports."""
        return self._behind.node_port_services()


class SecondLook:
    """Judges refused Services anew.

    Args:
        client: speaks to the API server.
        picture: what they were judged with.
    """

    def __init__(self, client: ApiClient, picture: Picture) -> None:
        self._client = client
        self._picture = picture

    async def __call__(self, request: Request, verdict: Verdict) -> Verdict:
        """Return what the rules say now; the same as before where nothing can be read."""
        if request.kind.kind != "Service":
            return verdict
        try:
            async with asyncio.timeout(_PATIENCE):
                return judge(request, await self._look(request))
        except (ApiError, Unreachable, SourceError, TimeoutError, msgspec.DecodeError) as error:
            _LOG.warning(
                "refused Service %s without a second look: %s", request.full_name, str(error) or "no answer in time"
            )
            return verdict

    async def _look(self, request: Request) -> FreshPicture:
        others = sorted(self._users(request))[:_MOST_USERS]
        (configs, labels), uses = await asyncio.gather(
            asyncio.gather(self._configs(), self._labels(request.namespace)), asyncio.gather(*map(self._uses, others))
        )
        return FreshPicture(self._picture, configs, request.namespace, labels, dict(zip(others, uses, strict=True)))

    def _users(self, request: Request) -> set[str]:
        """Collect the other Services that have this one's node ports, as the picture says."""
        try:
            ports = facts(msgspec.json.decode(request.object, type=WrittenService)).node_ports
        except msgspec.DecodeError:
            return set()
        picture = self._picture
        found = {
            user for port in ports if port.protocol for user in picture.node_port_users(port.number, port.protocol)
        }
        return found - {request.full_name}

    async def _configs(self) -> dict[str, ProxyConfig]:
        written = msgspec.json.decode(await self._read(f"/apis/{API_VERSION}/proxyconfigs"), type=_List)
        return {config.name: config for config in _readable(written.items or ())}

    async def _labels(self, namespace: str) -> dict[str, str]:
        written = msgspec.json.decode(await self._read(f"/api/v1/namespaces/{namespace}"), type=raw.Namespace)
        return (written.metadata.labels if written.metadata else None) or {}

    async def _uses(self, service: str) -> Uses:
        namespace, _, name = service.partition("/")
        written = await self._read(f"/api/v1/namespaces/{namespace}/services/{name}")
        ports = facts(msgspec.json.decode(written, type=WrittenService)).node_ports
        return frozenset((port.number, port.protocol) for port in ports)

    async def _read(self, path: str) -> bytes:
        """Read an object; what is not there is empty."""
        try:
            return await self._client.get(path)
        except ApiError as error:
            if error.status != _NOT_FOUND:
                raise
            return _NOTHING


def _readable(items: Iterable[object]) -> Iterator[ProxyConfig]:
    """Read ProxyConfigs; one that an earlier release's schema let in and ours would not counts as none."""
    for item in items:
        with contextlib.suppress(ValidationError):
            yield ProxyConfig.read(item)
