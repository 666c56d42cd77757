"""The configuration of kube-proxy, as its users have it: KubeProxyConfiguration, kubeproxy.config.k8s.io/v1alpha1.

Fields are those of Kubernetes 1.37 (``k8s.io/kube-proxy/config/v1alpha1``), and two that releases before 1.26 had;
defaults are kube-proxy's own (``pkg/proxy/apis/config/v1alpha1/defaults.go``). Where kube-proxy takes 0 for "not set",
so is it here. What its fields become is in `pointsman.api.migration`.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, NamedTuple, Self, get_args

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from pointsman.api.fields import MAX_INT32, Cidr, Duration, NodePortAddress
from pointsman.api.resource import Part, unknown_fields
from pointsman.api.schedulers import SCHEDULERS
from pointsman.api.values import CIDR_ALLOWED, MAX_PORT, canonical_cidr, format_duration, refuse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman.api.resource import UnknownField

KIND: Final = "KubeProxyConfiguration"
GROUP: Final = "kubeproxy.config.k8s.io"
API_VERSION: Final = f"{GROUP}/v1alpha1"

HEALTHZ: Final = "0.0.0.0:10256"
METRICS: Final = "127.0.0.1:10249"
SYNC_PERIOD: Final = 30.0
MIN_SYNC_PERIOD: Final = 1.0
"""Of the modes iptables and nftables; 0 in mode ipvs, or this one, see `KubeProxyConfiguration.has_own_pause`."""

Mode = Literal["", "iptables", "ipvs", "nftables", "userspace"]
LocalMode = Literal["", "ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix"]
_MODES: Final = 'iptables, ipvs, nftables, or "" for iptables; Windows nodes (kernelspace) keep kube-proxy'
_LOCAL_MODES: Final = ", ".join(get_args(LocalMode)[1:])


def _one_of(values: tuple[str, ...], allowed: str) -> BeforeValidator:
    def check(value: object) -> object:
        if value not in values:
            raise refuse(value, allowed)
        return value

    return BeforeValidator(check)


def _cluster_cidrs(value: Any) -> Any:  # noqa: ANN401 -- pydantic hands over whatever was written
    """Read networks with commas between them."""
    try:
        return tuple(canonical_cidr(part.strip()) for part in value.split(",")) if value else ()
    except (ValueError, AttributeError):
        raise refuse(value, f"{CIDR_ALLOWED}, or one of each family with a comma between them") from None


def _flush(value: Any) -> Any:  # noqa: ANN401 -- as above
    """Read a number of nanoseconds, as older releases wrote it (``TimeOrMetaDuration``)."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return format_duration(value / 1e9)
    return value


def _address(value: str) -> str:
    try:
        ipaddress.ip_address(value or "0.0.0.0")  # noqa: S104 (it is read, not bound)
    except ValueError:
        raise refuse(value, "an IP address") from None
    return value


def _listener(value: str) -> str:
    try:
        split_address(value or HEALTHZ)
    except ValueError:
        raise refuse(value, f'an IP address, with a port or without, such as "{HEALTHZ}"') from None
    return value


def split_address(text: str) -> tuple[str, int | None]:
    """Read where kube-proxy listens: an address, and the port if one is written; IPv6 with a port is in brackets.

    Raises:
        ValueError: it is something else.
    """
    try:
        return str(ipaddress.ip_address(text.strip("[]"))), None
    except ValueError:
        host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdigit() and 1 <= int(port) <= MAX_PORT):
        raise ValueError(f"{text!r} has no port from 1 to {MAX_PORT}")
    return str(ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))), int(port)


_Count = Annotated[int, Field(ge=0, le=MAX_INT32)]
_Bit = Annotated[int, Field(ge=0, le=31)]
_SyncPeriod = Annotated[Duration, AfterValidator(lambda seconds: seconds or SYNC_PERIOD)]
_MinSyncPeriod = Annotated[Duration, AfterValidator(lambda seconds: seconds or MIN_SYNC_PERIOD)]
_Listener = Annotated[str, AfterValidator(_listener)]


class IPTables(Part):
    """Section ``iptables``."""

    masquerade_bit: _Bit = 14
    masquerade_all: bool = False
    localhost_node_ports: bool = True
    sync_period: _SyncPeriod = SYNC_PERIOD
    min_sync_period: _MinSyncPeriod = MIN_SYNC_PERIOD


class NFTables(Part):
    """Section ``nftables``."""

    masquerade_bit: _Bit = 14
    masquerade_all: bool = False
    sync_period: _SyncPeriod = SYNC_PERIOD
    min_sync_period: _MinSyncPeriod = MIN_SYNC_PERIOD


class IPVS(Part):
    """Section ``ipvs``; a timeout of 0 leaves the kernel's value alone."""

    sync_period: _SyncPeriod = SYNC_PERIOD
    min_sync_period: Duration = 0.0
    scheduler: str = ""
    exclude_cidrs: tuple[Cidr, ...] = ()
    strict_arp: bool = False
    tcp_timeout: Duration = 0.0
    tcp_fin_timeout: Duration = 0.0
    udp_timeout: Duration = 0.0


class Conntrack(Part):
    """Section ``conntrack``; a value of 0 leaves the kernel's value alone."""

    max_per_core: _Count = 32 * 1024
    min: _Count = 128 * 1024
    tcp_established_timeout: Duration = 86400.0
    tcp_close_wait_timeout: Duration = 3600.0
    tcp_be_liberal: bool = False
    udp_timeout: Duration = 0.0
    udp_stream_timeout: Duration = 0.0


class Winkernel(Part):
    """Section ``winkernel``, of Windows nodes."""

    network_name: str = ""
    source_vip: str = ""
    enable_dsr: bool = Field(default=False, alias="enableDSR")
    root_hns_endpoint_name: str = ""
    forward_health_check_vip: bool = False


class DetectLocal(Part):
    """Section ``detectLocal``."""

    bridge_interface: str = ""
    interface_name_prefix: str = ""


class ClientConnection(Part):
    """Section ``clientConnection`` (``k8s.io/component-base/config/v1alpha1``)."""

    kubeconfig: str = ""
    accept_content_types: str = ""
    content_type: str = "application/vnd.kubernetes.protobuf"
    qps: float = 5.0
    burst: _Count = 10


class VModule(Part):
    """An entry of ``logging.vmodule``."""

    file_pattern: str = ""
    verbosity: _Count = 0


class Output(Part):
    """Where the log goes."""

    split_stream: bool = False
    info_buffer_size: Annotated[int | str, AfterValidator(lambda size: 0 if size == "0" else size)] = 0


class Options(Part):
    """Section ``logging.options``."""

    text: Output = Output()
    json_: Output = Field(default=Output(), alias="json")


class Logging(Part):
    """Section ``logging`` (``k8s.io/component-base/logs/api/v1``)."""

    format: str = "text"
    flush_frequency: Annotated[Duration, BeforeValidator(_flush)] = 5.0
    verbosity: _Count = 0
    vmodule: tuple[VModule, ...] = ()
    options: Options = Options()


class KubeProxyConfiguration(Part):
    """The whole."""

    feature_gates: dict[str, bool] = Field(default_factory=dict)
    client_connection: ClientConnection = ClientConnection()
    logging: Logging = Logging()
    hostname_override: str = ""
    bind_address: Annotated[str, AfterValidator(_address)] = ""
    healthz_bind_address: _Listener = ""
    metrics_bind_address: _Listener = ""
    bind_address_hard_fail: bool = False
    enable_profiling: bool = False
    show_hidden_metrics_for_version: str = ""
    mode: Annotated[Mode, _one_of(get_args(Mode), _MODES)] = ""
    iptables: IPTables = IPTables()
    ipvs: IPVS = IPVS()
    nftables: NFTables = NFTables()
    winkernel: Winkernel = Winkernel()
    detect_local_mode: Annotated[LocalMode, _one_of(get_args(LocalMode), _LOCAL_MODES)] = ""
    detect_local: DetectLocal = DetectLocal()
    cluster_cidr: Annotated[tuple[str, ...], BeforeValidator(_cluster_cidrs)] = Field(default=(), alias="clusterCIDR")
    node_port_addresses: tuple[NodePortAddress, ...] = ()
    oom_score_adj: Annotated[int, Field(ge=-1000, le=1000)] = -999
    conntrack: Conntrack = Conntrack()
    config_sync_period: Duration = 900.0
    port_range: str = ""
    windows_run_as_service: bool = False
    resource_container: str = ""
    """Of releases before 1.26."""
    udp_idle_timeout: Duration = 0.0
    """Of releases before 1.26, for their mode userspace."""

    @model_validator(mode="after")
    def _scheduler_of_ipvs(self) -> Self:
        if self.mode == "ipvs" and self.ipvs.scheduler and self.ipvs.scheduler not in SCHEDULERS["ipvs"]:
            raise refuse(self.ipvs.scheduler, ", ".join(SCHEDULERS["ipvs"]), field="ipvs.scheduler")
        return self

    @model_validator(mode="after")
    def _pause_within_its_period(self) -> Self:
        section, pace = self.pacing
        if self.has_own_pause and pace.min_sync_period > pace.sync_period:
            allowed = f"a duration not above {section}.syncPeriod ({format_duration(pace.sync_period)})"
            raise refuse(format_duration(pace.min_sync_period), allowed, field=f"{section}.minSyncPeriod")
        return self

    @property
    def pacing(self) -> tuple[str, IPTables | IPVS | NFTables]:
        """The section whose periods count in this mode (``v1alpha1/conversion.go``), and its name."""
        if self.mode == "ipvs":
            return "ipvs", self.ipvs
        return ("nftables", self.nftables) if self.mode == "nftables" else ("iptables", self.iptables)

    @property
    def has_own_pause(self) -> bool:
        """Whether ``minSyncPeriod`` is another one than kube-proxy's default.

        In mode ipvs that is 0 in a file, and 1 s on the command line, which ``--write-config-to`` writes down.
        """
        return self.pacing[1].min_sync_period not in (0.0, MIN_SYNC_PERIOD)


class Leaf(NamedTuple):
    """A field that holds a value.

    Attributes:
        path: as users write it (``ipvs.strictARP``).
        value: what it is.
        default: what it is when nobody writes it.
    """

    path: str
    value: object
    default: object


def leaves(part: Part, above: str = "") -> Iterator[Leaf]:
    """Yield all fields of a part and those of its own parts, in the order of their declaration."""
    for name, field in type(part).model_fields.items():
        value, path = getattr(part, name), f"{above}{field.alias}"
        if isinstance(value, Part):
            yield from leaves(value, f"{path}.")
        else:
            yield Leaf(path, value, field.get_default(call_default_factory=True))


def unknown(plain: dict[str, object]) -> Iterator[UnknownField]:
    """Yield the fields of a document that no KubeProxyConfiguration has; kube-proxy ignores them with a warning."""
    of_every_object = ("apiVersion", "kind", "metadata")
    fields = {name: value for name, value in plain.items() if name not in of_every_object}
    for field in unknown_fields(KubeProxyConfiguration, fields, ""):
        yield field._replace(path=field.path.removeprefix("."))
