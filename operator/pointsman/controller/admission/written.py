"""A Service as a review shows it: what the rules ask of it, with the fields that they name."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from pointsman.model import raw
from pointsman.model.convert import not_ours
from pointsman.model.convert_service import split_flags

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman.model.plan import Transport

_PROTOCOLS: Final[dict[str | None, Transport]] = {
    None: "tcp", "": "tcp", "TCP": "tcp", "UDP": "udp", "SCTP": "sctp",
}  # fmt: skip
_HEALTH_CHECK: Final = "spec.healthCheckNodePort"


class Metadata(raw.Part):
    """`metadata` of a Service under review."""

    labels: raw.Labels | None = None
    annotations: raw.Annotations | None = None
    deletion_timestamp: str | None = None
    managed_fields: msgspec.Raw = msgspec.Raw(b"null")


class WrittenService(raw.Part):
    """A Service under review, as far as the rules read it."""

    metadata: Metadata | None = None
    spec: raw.ServiceSpec | None = None


class NodePort(NamedTuple):
    """A port on every node.

    Attributes:
        field: where it stands.
        number: the port.
        protocol: None when it is none that we know.
        is_asked_for: somebody wrote it; else the API server has chosen it (it does before it asks webhooks).
    """

    field: str
    number: int
    protocol: Transport | None
    is_asked_for: bool


class Facts(NamedTuple):
    """What the rules ask of a Service; all empty for one that is not ours."""

    node_ports: tuple[NodePort, ...] = ()
    scheduler: str = ""
    scheduler_flags: tuple[str, ...] = ()
    affinity_timeout: int | None = None


def facts(service: WrittenService) -> Facts:
    """Take out of a Service what the rules ask.

    Nothing comes of a Service that no proxy of ours serves: type ExternalName, headless, or given to another proxy by
    its label.
    """
    spec, metadata = service.spec or raw.ServiceSpec(), service.metadata or Metadata()
    if spec.type == "ExternalName" or spec.cluster_ip == "None" or not_ours(metadata.labels):
        return Facts()
    annotations = metadata.annotations
    config = spec.session_affinity_config.client_ip if spec.session_affinity_config else None
    return Facts(
        node_ports=tuple(_node_ports(spec, _Asked(metadata.managed_fields))),
        scheduler=(annotations.scheduler or "") if annotations else "",
        scheduler_flags=split_flags(annotations.scheduler_flags or "") if annotations else (),
        affinity_timeout=config.timeout_seconds if config and spec.session_affinity == "ClientIP" else None,
    )


def _node_ports(spec: raw.ServiceSpec, asked: _Asked) -> Iterator[NodePort]:
    if spec.type not in ("NodePort", "LoadBalancer"):
        return
    for index, port in enumerate(spec.ports or ()):
        if port.node_port:
            yield NodePort(
                f"spec.ports[{index}].nodePort",
                port.node_port,
                _PROTOCOLS.get(port.protocol),
                asked.for_node_port(port),
            )
    if spec.health_check_node_port and spec.type == "LoadBalancer" and spec.external_traffic_policy == "Local":
        yield NodePort(_HEALTH_CHECK, spec.health_check_node_port, "tcp", asked.for_health_check())


class _Asked:
    """Which ports somebody wrote, from `metadata.managedFields`: it is kept up before the API server fills ports in.

    Read only when asked, as it is the largest part of an object. Where there is none, everything counts as written.
    """

    def __init__(self, managed: msgspec.Raw) -> None:
        self._managed = managed
        self._specs: list[dict[str, Any]] | None = None

    def for_node_port(self, port: raw.Port) -> bool:
        """Tell whether somebody wrote this port's nodePort."""
        specs = self._read()
        key = (port.port, port.protocol or "TCP")
        return not specs or any("f:nodePort" in item for spec in specs for item in _items(spec, key))

    def for_health_check(self) -> bool:
        """Tell whether somebody wrote healthCheckNodePort."""
        specs = self._read()
        return not specs or any("f:healthCheckNodePort" in spec for spec in specs)

    def _read(self) -> list[dict[str, Any]]:
        if self._specs is None:
            self._specs = list(_managed_specs(self._managed))
        return self._specs


def _managed_specs(managed: msgspec.Raw) -> Iterator[dict[str, Any]]:
    """Yield each manager's part of `spec` (fieldsV1: a key ``f:NAME`` for each field that is theirs)."""
    entries = msgspec.json.decode(managed)
    for entry in entries if isinstance(entries, list) else ():
        fields = entry.get("fieldsV1") if isinstance(entry, dict) else None
        spec = fields.get("f:spec") if isinstance(fields, dict) else None
        if isinstance(spec, dict):
            yield spec


def _items(spec: dict[str, Any], key: tuple[int | None, str]) -> Iterator[dict[str, Any]]:
    """Yield what is owned of the port with this key; keys are written ``k:{"port":80,"protocol":"TCP"}``."""
    ports = spec.get("f:ports")
    for name, item in ports.items() if isinstance(ports, dict) else ():
        if name.startswith("k:") and isinstance(item, dict) and _port_key(name.removeprefix("k:")) == key:
            yield item


def _port_key(text: str) -> tuple[int | None, str]:
    try:
        key = json.loads(text)
    except ValueError:
        return None, ""
    return (key.get("port"), key.get("protocol", "TCP")) if isinstance(key, dict) else (None, "")
