"""Whether this node's proxy does its work, as probes and load balancers ask it: ``/healthz`` and ``/livez``.

Paths, body and meaning are those of kube-proxy, so that probes and cloud controllers need no change. One thing is
stricter: before the first sync is in the kernel nothing is healthy.
"""

from __future__ import annotations

from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Literal, Protocol

import msgspec

from pointsman.process.http import Response, json_response, not_found

if TYPE_CHECKING:
    from collections.abc import Callable

    from pointsman.process.clock import Clock

Probe = Literal["healthz", "livez"]
_NEVER: Final = "0001-01-01T00:00:00Z"
_FAMILIES: Final = ("IPv4", "IPv6")


class Progress(Protocol):
    """What health is judged by; `pointsman.agent.loop.SyncLoop` is one.

    Attributes:
        synced_at: Unix seconds of the last sync that the kernel took, or None.
        oldest_change: monotonic seconds of the oldest change that is not in the kernel, or None.
        sync_period: seconds.
        node_leaving: the node is being deleted.
    """

    @property
    def synced_at(self) -> float | None: ...  # noqa: D102 (the class says it)
    @property
    def oldest_change(self) -> float | None: ...  # noqa: D102
    @property
    def sync_period(self) -> float: ...  # noqa: D102
    @property
    def node_leaving(self) -> bool: ...  # noqa: D102


class _Family(msgspec.Struct, rename="camel"):
    last_updated: str
    healthy: bool


class _ApiServer(msgspec.Struct, omit_defaults=True):
    connected: bool
    since: str | None = None


class _Body(msgspec.Struct, rename="camel", omit_defaults=True):
    last_updated: str
    current_time: str
    healthy: bool
    status: dict[str, _Family]
    node_eligible: bool | None = None
    api_server: _ApiServer | None = None


class Health:
    """Judges the proxy's health and answers probes.

    An API server that is away makes nobody unhealthy: the rules stay. The body says since when it is.

    Args:
        progress: what health is judged by.
        clock: time.
        count: told of each probe and its response's code.
        outage: tells since when the API server is away (Unix seconds), None while it is there; absent where objects
            come from elsewhere.
    """

    def __init__(
        self,
        progress: Progress,
        clock: Clock,
        count: Callable[[Probe, int], None],
        outage: Callable[[], float | None] | None = None,
    ) -> None:
        self._progress = progress
        self._clock = clock
        self._count = count
        self._outage = outage

    @property
    def healthy(self) -> bool:
        """The first sync is in the kernel, and no change has waited for it longer than two sync periods."""
        progress = self._progress
        if progress.synced_at is None:
            return False
        oldest = progress.oldest_change
        return oldest is None or self._clock.monotonic() - oldest < 2 * progress.sync_period

    async def respond(self, path: str) -> Response:
        """Answer ``/healthz`` and ``/livez``."""
        match path:
            case "/healthz":
                return self._probe("healthz", eligible=not self._progress.node_leaving)
            case "/livez":
                return self._probe("livez", eligible=None)
            case _:
                return not_found()

    def _probe(self, probe: Probe, *, eligible: bool | None) -> Response:
        works = self.healthy
        good = works and eligible is not False
        status = HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE
        self._count(probe, status.value)
        now = self._clock.wall()
        synced = _time(self._progress.synced_at)
        body = _Body(
            # As with kube-proxy: "last updated" is now while all that there was to update has been updated.
            last_updated=_time(now) if good else synced,
            current_time=_time(now),
            healthy=works,
            status={family: _Family(synced, works) for family in _FAMILIES},
            node_eligible=eligible,
            api_server=self._api_server(),
        )
        return json_response(status, body)

    def _api_server(self) -> _ApiServer | None:
        if self._outage is None:
            return None
        since = self._outage()
        return _ApiServer(connected=since is None, since=None if since is None else _time(since))


def _time(unix: float | None) -> str:
    if unix is None:
        return _NEVER
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
