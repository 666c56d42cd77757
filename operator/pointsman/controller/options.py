"""What one replica of the operator is told."""

from __future__ import annotations

import msgspec

from pointsman.sources.apiserver.access import Access


class OperatorOptions(msgspec.Struct, frozen=True):
    """What one replica of the operator is told.

    Attributes:
        access: how to get at the API server.
        identity: of this replica; no other has it.
        namespace: of the operator: its Lease, the agents' Leases, the webhook's Secret.
        webhook_address: ``IP:PORT`` to serve the webhook at; "" for nowhere.
        webhook_hosts: DNS names and addresses that the API server calls the webhook by.
        makes_certificates: make and renew the webhook's certificates; False: somebody else fills the Secret.
        healthz_address: ``IP:PORT`` for /healthz, /livez, /readyz and /metrics; "" for nowhere.
    """

    access: Access
    identity: str
    namespace: str = "pointsman-system"
    webhook_address: str = "0.0.0.0:9443"
    webhook_hosts: tuple[str, ...] = ()
    makes_certificates: bool = True
    healthz_address: str = "0.0.0.0:8080"
