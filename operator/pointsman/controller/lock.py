"""The Lease that replicas of the operator compete for, as the official client's leader election asks for it.

Its own `LeaseLock` is left out: it brings a second connection whose credentials nobody renews and whose requests may
take five minutes, and writes local times as if they were UTC. The rules of the election (`LeaderElection`) are kept.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import msgspec
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.leaderelection.leaderelectionrecord import LeaderElectionRecord
from kubernetes.aio.leaderelection.resourcelock.baselock import BaseLock

from pointsman.api.timestamps import rfc3339_micro
from pointsman.sources.apiserver.client import ApiError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pointsman.sources.apiserver.client import ApiClient

_LEASES: Final = "/apis/coordination.k8s.io/v1/namespaces/{}/leases"


class _Metadata(msgspec.Struct, rename="camel"):
    resource_version: str = ""


class _Spec(msgspec.Struct, rename="camel"):
    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int | None = None


class _Lease(msgspec.Struct):
    metadata: _Metadata
    spec: _Spec | None = None


class LeaseLock(BaseLock):
    """One Lease.

    Writes hold the resourceVersion that was read: of two replicas that write at once, the API server lets one win.

    Args:
        client: speaks to the API server.
        name: of the Lease.
        namespace: of the Lease.
        identity: of this replica; no other has it.
        clock: tells Unix seconds.
    """

    def __init__(self, client: ApiClient, name: str, namespace: str, identity: str, clock: Callable[[], float]) -> None:
        super().__init__(name, namespace, identity)
        self._client = client
        self._clock = clock
        self._read = _Lease(_Metadata())

    async def get(self, name: str, namespace: str) -> tuple[bool, LeaderElectionRecord | ApiException | None]:  # type: ignore[override]  # narrower
        """Read the Lease; (False, why) where there is none.

        Raises:
            ApiError: it cannot be read; whether somebody else holds it is not known then.
            Unreachable: the API server does not answer.
        """
        try:
            self._read = msgspec.json.decode(await self._client.get(f"{_LEASES.format(namespace)}/{name}"), type=_Lease)
        except ApiError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            self._read = _Lease(_Metadata())
            refusal = ApiException(status=error.status, reason=str(error))
            refusal.body = msgspec.json.encode({"code": error.status}).decode()
            return False, refusal
        spec = self._read.spec or _Spec()
        seconds = spec.lease_duration_seconds
        return True, LeaderElectionRecord(
            spec.holder_identity or None, str(seconds) if seconds else None, spec.acquire_time, spec.renew_time
        )

    async def create(self, name: str, namespace: str, election_record: LeaderElectionRecord) -> bool:
        """Make the Lease; False when another replica was first."""
        body = self._document(name, namespace, "", self._spec(election_record))
        return await self._wins(self._client.post, _LEASES.format(namespace), body)

    async def update(self, name: str, namespace: str, updated_record: LeaderElectionRecord) -> bool:
        """Write the Lease that was read last; False when another replica was first."""
        body = self._document(name, namespace, self._read.metadata.resource_version, self._spec(updated_record))
        return await self._wins(self._client.put, f"{_LEASES.format(namespace)}/{name}", body)

    async def release(self) -> None:
        """Give the Lease back, if it is this replica's: the next one takes it at its next look.

        Raises:
            ApiError: the API server refused it; another replica may have taken it meanwhile.
            Unreachable: the API server does not answer.
        """
        await self.get(self.name, self.namespace)
        if self._read.spec is None or self._read.spec.holder_identity != self.identity:
            return
        version = self._read.metadata.resource_version
        body = {"metadata": {"resourceVersion": version}, "spec": {"holderIdentity": None}}
        await self._client.patch(f"{_LEASES.format(self.namespace)}/{self.name}", body, kind="merge")

    async def _wins(self, send: Callable[[str, object], Any], path: str, body: object) -> bool:
        try:
            await send(path, body)
        except ApiError as error:
            if error.reason in ("Conflict", "AlreadyExists"):
                return False
            raise
        return True

    def _spec(self, record: LeaderElectionRecord) -> dict[str, Any]:
        before = self._read.spec or _Spec()
        now = rfc3339_micro(self._clock())
        stays = before.holder_identity == self.identity
        return {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": int(record.lease_duration or 0),
            "acquireTime": before.acquire_time if stays and before.acquire_time else now,
            "renewTime": now,
            "leaseTransitions": (before.lease_transitions or 0) + (0 if stays else 1),
        }

    def _document(self, name: str, namespace: str, version: str, spec: dict[str, Any]) -> dict[str, Any]:
        metadata = {"name": name, "namespace": namespace}
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {**metadata, "resourceVersion": version} if version else metadata,
            "spec": spec,
        }
