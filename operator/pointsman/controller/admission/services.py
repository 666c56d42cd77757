"""The rules for Services; pure.

A value that an update does not touch never stops it: what is wrong with it is a warning then. Otherwise nobody could
even scale down or delete (finalizers) what an earlier configuration allowed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pointsman.api.names import SCHEDULER_ANNOTATION, SCHEDULER_FLAGS_ANNOTATION, is_own_name
from pointsman.api.proxyconfig import ProxyConfigSpec
from pointsman.api.schedulers import SCHEDULER_FLAGS, may_have, nearest, schedulers_of
from pointsman.controller.admission.causes import Cause, Verdict, duplicate, invalid, not_supported, shown
from pointsman.model.convert_service import MAX_AFFINITY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman.api.names import Mode
    from pointsman.api.proxyconfig import ProxyConfig
    from pointsman.api.values import PortRange
    from pointsman.controller.admission.picture import Picture
    from pointsman.controller.admission.written import Facts, NodePort

_SCHEDULER_FIELD: Final = f"metadata.annotations[{SCHEDULER_ANNOTATION}]"
_FLAGS_FIELD: Final = f"metadata.annotations[{SCHEDULER_FLAGS_ANNOTATION}]"
_TIMEOUT_FIELD: Final = "spec.sessionAffinityConfig.clientIP.timeoutSeconds"
_OUT_OF_RANGE: Final = "provided port is not in the valid range. The range of valid ports is"
_ALLOCATED: Final = "provided port is already allocated"
_MOST_FLAGS: Final = 8
"""Unknown flags that are named; an annotation has room for a hundred thousand."""
_TRIES: Final = 4096
"""Ports that are looked at to find a free one to propose."""


def review_service(name: str, namespace: str, new: Facts, old: Facts, picture: Picture, *, dry_run: bool) -> Verdict:
    """Judge a Service.

    Args:
        name: of the Service.
        namespace: of the Service.
        new: what it shall be.
        old: what it was; `Facts()` for a new one.
        picture: the cluster.
        dry_run: ports that the API server has chosen are none of its range then, and not judged.
    """
    review = _Review(f"{namespace}/{name}", new, old, picture)
    ranges = picture.node_port_ranges(namespace)
    ports = [port for port in new.node_ports if port.is_asked_for or not dry_run]
    for port in ports:
        review.range_of(port, ranges)
        review.users_of(port)
    review.doubles_among(ports)
    review.affinity()
    review.scheduler()
    review.scheduler_flags()
    return Verdict(tuple(review.causes), tuple(review.warnings))


class _Review:
    """Causes and warnings of one Service as they come up."""

    def __init__(self, service: str, new: Facts, old: Facts, picture: Picture) -> None:
        self.causes: list[Cause] = []
        self.warnings: list[str] = []
        self._service = service
        self._new = new
        self._old = old
        self._old_ports = frozenset(port.number for port in old.node_ports)
        self._old_uses = frozenset((port.number, port.protocol) for port in old.node_ports)
        self._picture = picture

    def range_of(self, port: NodePort, ranges: tuple[tuple[str, PortRange], ...]) -> None:
        """The port is in each range."""
        by_range: dict[PortRange, list[str]] = {}
        for config, wanted in ranges:
            if not wanted.holds(port.number):
                by_range.setdefault(wanted, []).append(config)
        differ = len({wanted for _, wanted in ranges}) > 1
        advice = "" if port.is_asked_for or not by_range else self._advice(port, ranges)
        for wanted, configs in by_range.items():
            whose = f" (ProxyConfig {', '.join(configs)})" if differ else ""
            cause = invalid(port.field, port.number, f"{_OUT_OF_RANGE} {wanted}{whose}{advice}")
            self._add(cause, is_old=port.number in self._old_ports)

    def users_of(self, port: NodePort) -> None:
        """No other Service has the port."""
        if port.protocol is None:
            return
        others = [user for user in self._picture.node_port_users(port.number, port.protocol) if user != self._service]
        if others:
            cause = invalid(port.field, port.number, f"{_ALLOCATED}, to Service {', '.join(others[:3])}")
            self._add(cause, is_old=(port.number, port.protocol) in self._old_uses)

    def doubles_among(self, ports: list[NodePort]) -> None:
        """No port of the Service itself has the same one."""
        seen: set[tuple[int, str]] = set()
        for port in ports:
            use = (port.number, port.protocol or "")
            if use in seen:
                self.causes.append(duplicate(port.field, port.number))
            seen.add(use)

    def affinity(self) -> None:
        """The affinity's timeout can be one."""
        seconds = self._new.affinity_timeout
        if seconds is not None and not 1 <= seconds <= MAX_AFFINITY:
            detail = f"must be greater than 0 and less than or equal to {MAX_AFFINITY}"
            self._add(invalid(_TIMEOUT_FIELD, seconds, detail), is_old=seconds == self._old.affinity_timeout)

    def scheduler(self) -> None:
        """Some mode that nodes may be in has the scheduler; of one that is somebody's own only the nodes know."""
        scheduler = self._new.scheduler
        if not scheduler:
            return
        modes = dict(_modes_by_config(self._picture.effective_configs()))
        known = [mode for possible in modes.values() for mode in possible]
        if not is_own_name(scheduler) and not any(may_have(mode, scheduler) for mode in known):
            supported = dict.fromkeys(name for mode in known for name in schedulers_of(mode))
            cause = not_supported(_SCHEDULER_FIELD, scheduler, supported)
            self._add(cause, is_old=scheduler == self._old.scheduler)
            return
        for config, (mode, *_) in modes.items():
            if not may_have(mode, scheduler):
                self.warnings.append(
                    f"{_SCHEDULER_FIELD}: {shown(scheduler)} is no scheduler of mode {mode}; "
                    f"the nodes of ProxyConfig {config} use {nearest(scheduler, mode, schedulers_of(mode))} "
                    "while they are in that mode"
                )
            elif scheduler not in schedulers_of(mode):
                self.warnings.append(
                    f"{_SCHEDULER_FIELD}: {shown(scheduler)} is none of Pointsman's own: whether it is there in mode "
                    f"{mode}, the nodes of ProxyConfig {config} know; where it is not, they use another one and say so"
                )

    def scheduler_flags(self) -> None:
        """There are such flags, and they are for the scheduler that the Service asks for."""
        flags, scheduler = self._new.scheduler_flags, self._new.scheduler
        for flag in [flag for flag in flags if flag not in SCHEDULER_FLAGS][:_MOST_FLAGS]:
            cause = not_supported(_FLAGS_FIELD, flag, SCHEDULER_FLAGS)
            self._add(cause, is_old=flag in self._old.scheduler_flags)
        unfit = [flag for flag in flags if scheduler and SCHEDULER_FLAGS.get(flag, scheduler) != scheduler]
        if unfit:
            self.warnings.append(f"{_FLAGS_FIELD}: {', '.join(unfit)}: without effect on scheduler {shown(scheduler)}")

    def _advice(self, port: NodePort, ranges: tuple[tuple[str, PortRange], ...]) -> str:
        """Say what to do about a port that nobody wrote."""
        free = next(self._free_ports(port, ranges), None)
        remedy = f"write a free one yourself, such as {free}" if free is not None else "no port is free there"
        return f"; the Service names none and the API server, whose range is wider, chose this one: {remedy}"

    def _free_ports(self, port: NodePort, ranges: tuple[tuple[str, PortRange], ...]) -> Iterator[int]:
        low = max(wanted.low for _, wanted in ranges)
        high = min(wanted.high for _, wanted in ranges)
        own = {other.number for other in self._new.node_ports}
        for number in range(low, min(high + 1, low + _TRIES)):
            if number not in own and not self._picture.node_port_users(number, port.protocol or "tcp"):
                yield number

    def _add(self, cause: Cause, *, is_old: bool) -> None:
        if is_old:
            self.warnings.append(f"{cause}; it was so before, and this update leaves it")
        else:
            self.causes.append(cause)


def _modes_by_config(configs: tuple[ProxyConfig, ...]) -> Iterator[tuple[str, tuple[Mode, ...]]]:
    """Yield the modes that a configuration's nodes may be in, the wanted one first; the defaults when there is none."""
    if not configs:
        yield "", (ProxyConfigSpec().mode,)
    for config in configs:
        yield config.name, (config.spec.mode, *config.spec.fallback_modes_in_force())
