"""EndpointSlices and Endpoints: from what is written to `pointsman.model.objects`.

This is the hot path: a cluster has hundreds of thousands of endpoints.
"""

from __future__ import annotations

from sys import intern
from typing import TYPE_CHECKING, Final

from pointsman.model import raw
from pointsman.model.address import canonical_address, family_of, why_special
from pointsman.model.convert import (
    address_or_none,
    interned,
    not_ours,
    port_number,
    protocol_of,
    reachable_or_none,
    trigger_time_of,
    weight_of,
)
from pointsman.model.objects import AddressFamily, Endpoint, EndpointPort, Endpoints, EndpointSlice

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pointsman.model.notes import Notes

_FAMILIES: Final[dict[str | None, AddressFamily]] = {"IPv4": 4, "IPv6": 6, "FQDN": 0}
_ENDPOINT: Final = "this endpoint"


def endpoint_slice(written: raw.EndpointSlice, namespace: str, name: str, notes: Notes) -> EndpointSlice | None:
    """Convert an EndpointSlice; None (and a note) when its address type is not known."""
    metadata = written.metadata or raw.Metadata()
    service = interned(metadata.labels.service if metadata.labels else None)
    family = _FAMILIES.get(written.address_type)
    if family is None:
        message = f'"{written.address_type}" is not known' if written.address_type else "is missing"
        notes.note("addressType", message, "write IPv4, IPv6 or FQDN")
        return None
    ignored = not_ours(metadata.labels) or ("" if family else "its addressType is FQDN, which no proxy serves")
    if ignored:
        return EndpointSlice(namespace, name, service, family, ignored=ignored)
    return EndpointSlice(
        namespace=namespace,
        name=name,
        service=service,
        family=family,
        ports=_ports(written.ports, "ports", notes, numberless=True),
        endpoints=tuple(_endpoints(written.endpoints or (), family, notes)),
        weight=weight_of(metadata, notes),
        trigger_time=trigger_time_of(metadata, notes),
    )


def endpoints(written: raw.Endpoints, namespace: str, name: str, notes: Notes) -> Endpoints:
    """Convert Endpoints into what Kubernetes' mirroring controller would make slices of.

    That controller leaves out Endpoints with the label ``endpointslice.kubernetes.io/skip-mirror: "true"`` and those
    that only hold a leader election. Labels that put a Service outside of the proxy's work do so here too.
    """
    metadata = written.metadata or raw.Metadata()
    if not_ours(metadata.labels) or _not_mirrored(metadata):
        return Endpoints(namespace, name)
    weight, trigger_time = weight_of(metadata, notes), trigger_time_of(metadata, notes)
    slices = []
    for index, subset in enumerate(written.subsets or ()):
        field = f"subsets[{index}]"
        ports = _ports(subset.ports, f"{field}.ports", notes, numberless=False)
        found = [*_subset(subset, field, notes)]
        for family in (4, 6):
            of_family = tuple(endpoint for endpoint in found if family_of(endpoint.address) == family)
            if of_family:
                label = f"{name} {field} IPv{family}"
                slices.append(EndpointSlice(namespace, label, name, family, ports, of_family, weight, trigger_time))
    return Endpoints(namespace, name, tuple(slices))


def _not_mirrored(metadata: raw.Metadata) -> bool:
    labels, annotations = metadata.labels, metadata.annotations
    return (labels is not None and labels.skip_mirror == "true") or (
        annotations is not None and annotations.leader is not None
    )


def _endpoints(
    written: Iterable[raw.Endpoint], family: AddressFamily, notes: Notes
) -> Iterator[Endpoint]:  # fmt: skip
    v6 = family == 6  # noqa: PLR2004 -- IP version 6
    shared: dict[str, tuple[str, ...]] = {}
    for index, entry in enumerate(written):
        try:
            # Consumers use the first address alone (discovery/v1).
            address = canonical_address(entry.addresses[0])  # type: ignore[index]  # None: TypeError
        except (ValueError, IndexError, TypeError):
            _note_address(entry, index, notes)
            continue
        if (":" in address) is not v6 or why_special(address):
            _note_unfit(address, index, family, notes)
            continue
        ready, serving, terminating = _conditions(entry.conditions)
        zones: tuple[str, ...] = ()
        nodes: tuple[str, ...] = ()
        if entry.hints is not None:
            zones, nodes = _names(entry.hints.for_zones, shared), _names(entry.hints.for_nodes, shared)
        node = intern(entry.node_name) if entry.node_name else ""
        yield Endpoint(address, ready, serving, terminating, node, zones, nodes, _pod(entry.target_ref))


def _conditions(written: raw.Conditions | None) -> tuple[bool, bool, bool]:
    """Apply the API's defaults: absent `ready` means ready, absent `serving` as `ready`, absent `terminating` not."""
    if written is None:
        return True, True, False
    ready = written.ready is not False
    return ready, ready if written.serving is None else written.serving, written.terminating is True


def _names(written: list[raw.Named] | None, shared: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    if not written:
        return ()
    names = tuple(intern(entry.name) for entry in written if entry.name)
    # Nearly always one zone, and the same few over and over: one tuple each will do.
    return shared.setdefault(names[0], names) if len(names) == 1 else names


def _note_address(entry: raw.Endpoint, index: int, notes: Notes) -> None:
    field = f"endpoints[{index}].addresses"
    if not entry.addresses:
        notes.note(field, "is empty", "write one IP address", _ENDPOINT)
    else:
        address_or_none(entry.addresses[0], f"{field}[0]", notes, dropped=_ENDPOINT)


def _note_unfit(address: str, index: int, family: AddressFamily, notes: Notes) -> None:
    field = f"endpoints[{index}].addresses[0]"
    if family_of(address) != family:
        remedy = f"write an IPv{family} address, as addressType says"
        notes.note(field, f'"{address}" is no IPv{family} address', remedy, _ENDPOINT)
    else:
        reachable_or_none(address, field, notes, dropped=_ENDPOINT)


def _ports(
    written: Iterable[raw.Port] | None, field: str, notes: Notes, *, numberless: bool
) -> tuple[EndpointPort, ...]:  # fmt: skip
    """Read ports; those without a number are skipped in slices (`numberless`: they mean all), else wrong."""
    ports = []
    for index, port in enumerate(written or ()):
        if port.port is None and numberless:
            continue
        path = f"{field}[{index}]"
        number = port_number(port.port, f"{path}.port", notes)
        protocol = protocol_of(port, path, notes)
        if number and protocol:
            ports.append(EndpointPort(number, interned(port.name), protocol))
    return tuple(ports)


def _subset(subset: raw.Subset, field: str, notes: Notes) -> Iterator[Endpoint]:
    for ready, part, written in (
        (True, "addresses", subset.addresses),
        (False, "notReadyAddresses", subset.not_ready_addresses),
    ):
        for index, entry in enumerate(written or ()):
            address = reachable_or_none(entry.ip, f"{field}.{part}[{index}].ip", notes)
            if address:
                node, pod = interned(entry.node_name), _pod(entry.target_ref)
                yield Endpoint(address, ready, ready, terminating=False, node=node, pod=pod)


def _pod(target: raw.TargetRef | None) -> str:
    return target.name or "" if target is not None and target.kind == "Pod" else ""
