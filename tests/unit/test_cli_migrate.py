"""`pointsman migrate`: no field of kube-proxy's configuration is left out, and what comes out is always valid."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from pointsman.api.kubeproxy import KubeProxyConfiguration, leaves
from pointsman.api.migration import Migration, migrate
from pointsman.api.proxyconfig import ProxyConfig
from pointsman.cli.app import app
from pointsman.cli.migrate_text import json_text, yaml_text
from pointsman.model.kubeproxy_files import NotFoundError, kube_proxy_configuration
from pointsman.model.parse import parse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from click.testing import Result

PAGE: Final = (Path(__file__).parents[2] / "docs" / "migrate.md").read_text("utf-8")
HEAD: Final = {"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration"}
CONNTRACK: Final = {"maxPerCore": 32768, "min": 131072, "tcpEstablishedTimeout": "24h", "tcpCloseWaitTimeout": "1h"}

# Every field of k8s.io/kube-proxy/config/v1alpha1/types.go of 1.37 (and of its parts from k8s.io/component-base), with
# a value that is not the default, and the mode in which it counts.
FIELDS: Final[Mapping[str, tuple[object, str]]] = {
    "featureGates": ({"AllAlpha": True}, ""),
    "clientConnection.kubeconfig": ("/etc/kubeconfig", ""),
    "clientConnection.acceptContentTypes": ("application/json", ""),
    "clientConnection.contentType": ("application/json", ""),
    "clientConnection.qps": (50, ""),
    "clientConnection.burst": (100, ""),
    "logging.format": ("json", ""),
    "logging.flushFrequency": ("1s", ""),
    "logging.verbosity": (4, ""),
    "logging.vmodule": ([{"filePattern": "proxier", "verbosity": 5}], ""),
    "logging.options.text.splitStream": (True, ""),
    "logging.options.text.infoBufferSize": ("1Mi", ""),
    "logging.options.json.splitStream": (True, ""),
    "logging.options.json.infoBufferSize": (4096, ""),
    "hostnameOverride": ("node-1", ""),
    "bindAddress": ("192.0.2.1", ""),
    "healthzBindAddress": ("0.0.0.0:10257", ""),
    "metricsBindAddress": ("0.0.0.0:10249", ""),
    "bindAddressHardFail": (True, ""),
    "enableProfiling": (True, ""),
    "showHiddenMetricsForVersion": ("1.36", ""),
    "mode": ("nftables", "nftables"),
    "iptables.masqueradeBit": (15, "iptables"),
    "iptables.masqueradeAll": (True, "iptables"),
    "iptables.localhostNodePorts": (False, "iptables"),
    "iptables.syncPeriod": ("1m", "iptables"),
    "iptables.minSyncPeriod": ("10s", "iptables"),
    "ipvs.syncPeriod": ("1m", "ipvs"),
    "ipvs.minSyncPeriod": ("10s", "ipvs"),
    "ipvs.scheduler": ("lc", "ipvs"),
    "ipvs.excludeCIDRs": (["192.0.2.0/24"], "ipvs"),
    "ipvs.strictARP": (True, "ipvs"),
    "ipvs.tcpTimeout": ("1h", "ipvs"),
    "ipvs.tcpFinTimeout": ("10s", "ipvs"),
    "ipvs.udpTimeout": ("1m", "ipvs"),
    "nftables.masqueradeBit": (15, "nftables"),
    "nftables.masqueradeAll": (True, "nftables"),
    "nftables.syncPeriod": ("1m", "nftables"),
    "nftables.minSyncPeriod": ("10s", "nftables"),
    "winkernel.networkName": ("net", ""),
    "winkernel.sourceVip": ("192.0.2.1", ""),
    "winkernel.enableDSR": (True, ""),
    "winkernel.rootHnsEndpointName": ("end", ""),
    "winkernel.forwardHealthCheckVip": (True, ""),
    "detectLocalMode": ("NodeCIDR", ""),
    "detectLocal.bridgeInterface": ("cni0", ""),
    "detectLocal.interfaceNamePrefix": ("veth", ""),
    "clusterCIDR": ("10.244.0.0/16", ""),
    "nodePortAddresses": (["primary"], ""),
    "oomScoreAdj": (0, ""),
    "conntrack.maxPerCore": (65536, ""),
    "conntrack.min": (65536, ""),
    "conntrack.tcpEstablishedTimeout": ("1h", ""),
    "conntrack.tcpCloseWaitTimeout": ("1m", ""),
    "conntrack.tcpBeLiberal": (True, ""),
    "conntrack.udpTimeout": ("1m", ""),
    "conntrack.udpStreamTimeout": ("5m", ""),
    "configSyncPeriod": ("1h", ""),
    "portRange": ("30000-32767", ""),
    "windowsRunAsService": (True, ""),
}
FORMER: Final = {"resourceContainer": "/kube-proxy", "udpIdleTimeout": "250ms"}
"""Of releases before 1.26."""


def config(fields: Mapping[str, object]) -> dict[str, Any]:
    """Build a KubeProxyConfiguration from values by path."""
    made: dict[str, Any] = dict(HEAD)
    for path, value in fields.items():
        *above, name = path.split(".")
        inner = made
        for part in above:
            inner = inner.setdefault(part, {})
        inner[name] = value
    return made


def become(**fields: object) -> Migration:
    """Migrate fields; ``__`` stands for a dot."""
    return migrate(config({name.replace("__", "."): value for name, value in fields.items()}), "default")


def spec_of(**fields: object) -> dict[str, Any]:
    spec: dict[str, Any] = become(**fields).document["spec"]
    return spec


def notes_of(**fields: object) -> dict[str, str]:
    return {note.field: note.note for note in become(**fields).notes}


def test_the_model_has_every_field_of_the_release_and_no_other() -> None:
    assert {leaf.path for leaf in leaves(KubeProxyConfiguration())} == {*FIELDS, *FORMER}


@pytest.mark.parametrize("path", FIELDS)
def test_no_field_is_left_out(path: str) -> None:
    value, mode = FIELDS[path]
    plain = migrate(config({"mode": mode} if path != "mode" else {}), "x")
    changed = migrate(config({"mode": mode, path: value}), "x")
    assert changed != plain
    for note in changed.notes:
        assert note.field.startswith(path)
        assert note.value == (value if path != "featureGates" else True)


@pytest.mark.parametrize("path", [path for path, (_, mode) in FIELDS.items() if mode and path != "mode"])
def test_a_field_of_another_mode_is_kept_or_told(path: str) -> None:
    value, mode = FIELDS[path]
    other = {"iptables": "nftables", "ipvs": "iptables", "nftables": "ipvs"}[mode]
    changed = migrate(config({"mode": other, path: value}), "x")
    if path == "iptables.localhostNodePorts":
        return  # false where it counts nowhere is what is so anyway
    assert changed != migrate(config({"mode": other}), "x")


@pytest.mark.parametrize("path", FORMER)
def test_fields_of_former_releases_are_told(path: str) -> None:
    assert list(notes_of(**{path: FORMER[path]})) == [path]


@pytest.mark.parametrize("mode", ["", "iptables", "ipvs", "nftables"])
def test_defaults_that_are_written_make_no_note(mode: str) -> None:
    """As `kube-proxy --write-config-to` writes them, and as kubeadm does, with null and 0."""
    defaults = {
        leaf.path: leaf.default
        for leaf in leaves(KubeProxyConfiguration())
        if isinstance(leaf.default, bool | int | str) and leaf.path != "mode"
    }
    periods = {
        "iptables.syncPeriod": "30s", "iptables.minSyncPeriod": "1s", "ipvs.syncPeriod": "30s",
        "ipvs.minSyncPeriod": "0s", "nftables.syncPeriod": "30s", "nftables.minSyncPeriod": "1s",
        "conntrack.tcpEstablishedTimeout": "24h0m0s", "conntrack.tcpCloseWaitTimeout": "1h0m0s",
        "configSyncPeriod": "15m0s", "logging.flushFrequency": 5_000_000_000, "bindAddress": "0.0.0.0",
        "healthzBindAddress": "0.0.0.0:10256", "metricsBindAddress": "127.0.0.1:10249",
    }  # fmt: skip
    zeros = {path: "0s" if str(value).endswith("s") else None for path, value in periods.items()}
    zeros = {path: value for path, value in zeros.items() if not path.startswith("conntrack")}
    found = [migrate(config({"mode": mode, **more}), "x") for more in ({}, defaults | periods, zeros)]
    assert found[0].notes == ()
    assert found == [found[0]] * 3
    # What kube-proxy 1.37 writes in mode ipvs.
    pause = {"ipvs.minSyncPeriod": "1s"} if mode == "ipvs" else {}
    assert migrate(config({"mode": mode, **defaults, **periods, **pause}), "x") == found[0]


def test_defaults_that_differ_are_written_out() -> None:
    assert spec_of() == {"mode": "iptables", "iptables": {"localhostNodePorts": True}, "conntrack": CONNTRACK}
    assert spec_of(mode="ipvs") == {"mode": "ipvs", "conntrack": CONNTRACK}
    assert spec_of(mode="nftables") == {"mode": "nftables", "conntrack": CONNTRACK}


def test_zeros_of_connection_tracking_leave_the_kernel_alone() -> None:
    zeros = {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s", "udpTimeout": "0s"}
    assert "conntrack" not in spec_of(conntrack=zeros)
    # Without a number for each core kube-proxy ignores the least one.
    assert "min" not in spec_of(conntrack={"maxPerCore": 0, "min": 5})["conntrack"]


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        (["all"], True), (["localhost"], True), (["primary"], False), (["10.0.0.0/8"], False), (["127.0.0.0/8"], True),
        (["0.0.0.0/0"], True), (["::1/128"], False), (["primary", "127.0.0.1/32"], True),
    ],
)  # fmt: skip
def test_node_ports_answer_on_loopback_where_the_addresses_allow_it(addresses: list[str], *, expected: bool) -> None:
    spec = spec_of(mode="iptables", nodePortAddresses=addresses)
    assert spec.get("iptables", {}).get("localhostNodePorts", False) is expected


def test_masquerade_all_is_that_of_the_mode() -> None:
    assert spec_of(iptables__masqueradeAll=True)["masqueradeAll"] is True
    assert spec_of(mode="ipvs", iptables__masqueradeAll=True)["masqueradeAll"] is True
    assert spec_of(mode="nftables", nftables__masqueradeAll=True)["masqueradeAll"] is True
    for mode, field in (("nftables", "iptables.masqueradeAll"), ("ipvs", "nftables.masqueradeAll")):
        found = migrate(config({"mode": mode, field: True}), "x")
        assert "masqueradeAll" not in found.document["spec"]
        assert [note.field for note in found.notes] == [field]


def test_maglev_hashes_the_clients_port_too() -> None:
    spec = spec_of(mode="ipvs", ipvs__scheduler="mh")
    assert (spec["scheduler"], spec["ipvs"]) == ("mh", {"schedulerFlags": ["mh-port"]})


@pytest.mark.parametrize(("mode", "section"), [("", "iptables"), ("ipvs", "ipvs"), ("nftables", "nftables")])
def test_periods_are_those_of_the_mode(mode: str, section: str) -> None:
    spec = spec_of(mode=mode, **{f"{section}__syncPeriod": "20s", f"{section}__minSyncPeriod": "5s"})
    assert (spec["syncPeriod"], spec["minSyncPeriod"]) == ("20s", "5s")
    # Pointsman's own pause has to fit, too.
    assert spec_of(mode="ipvs", ipvs__syncPeriod="10ms")["minSyncPeriod"] == "10ms"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"detectLocalMode": "NodeCIDR", "clusterCIDR": "10.0.0.0/8"}, ("NodeCIDR", ["10.0.0.0/8"])),
        ({"clusterCIDR": "10.0.0.0/8,fd00::/48"}, (None, ["10.0.0.0/8", "fd00::/48"])),
        ({"detectLocalMode": "BridgeInterface"}, ("NodeCIDR", None)),
        ({"detectLocalMode": "InterfaceNamePrefix", "clusterCIDR": "10.0.0.0/8"}, (None, ["10.0.0.0/8"])),
    ],
)  # fmt: skip
def test_how_pods_are_told(fields: dict[str, object], expected: tuple[str | None, list[str] | None]) -> None:
    found = become(**fields)
    spec = found.document["spec"]
    assert (spec.get("localDetection"), spec.get("podCIDRs")) == expected
    by_interface = fields.get("detectLocalMode") in ("BridgeInterface", "InterfaceNamePrefix")
    assert [note.field for note in found.notes] == (["detectLocalMode"] if by_interface else [])


def test_where_kube_proxy_listens_is_told_with_the_charts_values() -> None:
    assert "agent.healthPort=1234" in notes_of(healthzBindAddress="[::]:1234")["healthzBindAddress"]
    assert "all addresses" in notes_of(healthzBindAddress="192.0.2.1")["healthzBindAddress"]
    found = notes_of(metricsBindAddress="0.0.0.0")["metricsBindAddress"]
    assert "metrics.bindAddress=0.0.0.0 and metrics.port=10249" in found
    assert notes_of(healthzBindAddress="[::]:10256", metricsBindAddress="127.0.0.1", bindAddress="::") == {}


def test_loopback_in_mode_nftables_depends_on_the_gate() -> None:
    gate = "KubeProxyNFTablesLocalhostNodePorts"
    fields = {"mode": "nftables", "nodePortAddresses": ["primary", "localhost"]}
    assert spec_of(**fields)["nodePortAddresses"] == ["primary", "localhost"]
    assert gate in notes_of(**fields)["nodePortAddresses"]
    assert "TCP alone" in notes_of(**fields, featureGates={gate: True})["nodePortAddresses"]


def test_unknown_fields_are_named_with_what_was_meant() -> None:
    found = notes_of(ipvs__schedular="lc", foo=1)
    assert "did you mean scheduler?" in found["ipvs.schedular"]
    assert "take it out" in found["foo"]


WRONG: Final = [
    ("mode", "kernelspace", "Windows"),
    ("mode", "nftable", "iptables, ipvs, nftables"),
    ("mode", 3, "iptables, ipvs, nftables"),
    ("ipvs", "x", "a mapping"),
    ("ipvs.excludeCIDRs", ["x"], "10.0.0.0/8"),
    ("clusterCIDR", ["10.0.0.0/8"], "10.0.0.0/8"),
    ("clusterCIDR", "10.0.0.0/8,", "10.0.0.0/8"),
    ("conntrack.min", -1, "0 or more"),
    ("conntrack.maxPerCore", "1", "a whole number"),
    ("conntrack.tcpBeLiberal", "true", "true or false"),
    ("iptables.masqueradeBit", 32, "31 at most"),
    ("iptables.syncPeriod", 30, '"30s"'),
    ("iptables.syncPeriod", "-1s", '"30s"'),
    ("iptables.minSyncPeriod", "31s", "not above iptables.syncPeriod (30s)"),
    ("detectLocalMode", "Node", "ClusterCIDR, NodeCIDR"),
    ("nodePortAddresses", "all", "a list"),
    ("nodePortAddresses", ["al"], '"all"'),
    ("oomScoreAdj", 1001, "1000 at most"),
    ("healthzBindAddress", "localhost:1", "0.0.0.0:10256"),
    ("metricsBindAddress", "0.0.0.0:0", "0.0.0.0:10256"),
    ("bindAddress", "here", "an IP address"),
    ("featureGates.A", "yes", "true or false"),
]


@pytest.mark.parametrize(("path", "value", "allowed"), WRONG)
def test_a_wrong_value_is_an_error_that_names_the_field(tmp_path: Path, path: str, value: object, allowed: str) -> None:
    done = run(write(tmp_path, config({path: value})))
    assert (done.exit_code, done.stdout) == (1, "")
    assert re.search(rf": {re.escape(path)}[\[\]0-9]*: .* is not allowed; allowed: .*{re.escape(allowed)}", done.stderr)


def test_a_scheduler_that_ipvs_does_not_have_is_an_error(tmp_path: Path) -> None:
    done = run(write(tmp_path, config({"mode": "ipvs", "ipvs.scheduler": "lcc"})))
    assert done.exit_code == 1
    assert "ipvs.scheduler: 'lcc' is not allowed; allowed: rr, wrr, lc" in done.stderr


durations = st.sampled_from(["0s", "1ms", "50ms", "1s", "30s", "1m0s", "24h0m0s", "1h30m"])
cidrs = st.sampled_from(["10.0.0.0/8", "10.1.2.3/16", "0.0.0.0/0", "fd00::/48", "::1/128", "127.0.0.0/8"])
VALUES: Final[dict[str, st.SearchStrategy[object]]] = {
    path: st.one_of(
        st.just(value),
        st.none(),
        durations if isinstance(value, str) and re.fullmatch(r"\d+[smh]", value) else st.nothing(),
        st.booleans() if isinstance(value, bool) else st.nothing(),
        st.integers(0, 31) if isinstance(value, int) and not isinstance(value, bool) else st.nothing(),
    )
    for path, (value, _) in FIELDS.items()
} | {
    "mode": st.sampled_from(["", "iptables", "ipvs", "nftables", "userspace", None]),
    "ipvs.scheduler": st.sampled_from(["", "rr", "mh", "sh", "lc", "ovf"]),
    "ipvs.excludeCIDRs": st.lists(cidrs, max_size=4),
    "clusterCIDR": st.lists(cidrs, max_size=3).map(",".join),
    "nodePortAddresses": st.lists(st.one_of(cidrs, st.sampled_from(["all", "primary", "localhost"])), max_size=4),
    "detectLocalMode": st.sampled_from(["", "ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix"]),
    "udpIdleTimeout": durations,
    "hostnameOverride": st.text(max_size=10),
    "featureGates": st.dictionaries(st.text(max_size=8), st.booleans(), max_size=2),
    "iptables.syncPeriod": st.just("1h"),
    "ipvs.syncPeriod": st.just("30h"),
    "nftables.syncPeriod": st.just("24h"),
}


@given(st.fixed_dictionaries({}, optional=VALUES))
@settings(max_examples=200, deadline=None)
def test_what_comes_out_is_always_valid(fields: dict[str, object]) -> None:
    if "iptables.minSyncPeriod" in fields:
        fields["iptables.syncPeriod"] = "24h"
    for section in ("ipvs", "nftables"):
        if f"{section}.minSyncPeriod" in fields:
            fields[f"{section}.syncPeriod"] = "24h"
    found = migrate(config(fields), "default")
    text = yaml_text(found, "a file")
    assert yaml.safe_load(text) == found.document
    assert json.loads(json_text(found))["proxyConfig"] == found.document
    parsed = parse(text.encode())
    assert parsed.problems == ()
    (made,) = parsed.objects
    assert isinstance(made, ProxyConfig)
    assert made.spec.mode == (fields.get("mode") or "iptables")
    commented = " ".join(line.lstrip("# ") for line in text.splitlines() if line.lstrip().startswith("#"))
    for note in found.notes:
        assert note.note in commented


def file(name: str, **data: object) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"namespace": "kube-system", "name": name},
        "data": data,
    }


INNER: Final = yaml.safe_dump(config({"clusterCIDR": "10.244.0.0/16"}))
CONFIG_MAP: Final = file("kube-proxy", **{"config.conf": INNER, "kubeconfig.conf": "kind: Config"})
FORMS: Final = {
    "alone": [config({"clusterCIDR": "10.244.0.0/16"})],
    "beside others": [{"kind": "ClusterConfiguration"}, config({"clusterCIDR": "10.244.0.0/16"})],
    "a ConfigMap": [CONFIG_MAP],
    "a List": [{"kind": "List", "apiVersion": "v1", "items": [file("coredns", Corefile="x"), CONFIG_MAP]}],
    "a ConfigMapList": [{"kind": "ConfigMapList", "items": [{k: v for k, v in CONFIG_MAP.items() if k != "kind"}]}],
    "another key": [file("kube-proxy-config", config=INNER)],
}

PLACES: Final = {
    "a ConfigMap": "ConfigMap kube-system/kube-proxy, config.conf",
    "a List": "ConfigMap kube-system/kube-proxy, config.conf",
    "a ConfigMapList": "ConfigMap kube-system/kube-proxy, config.conf",
    "another key": "ConfigMap kube-system/kube-proxy-config, config",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dump", [yaml.safe_dump_all, lambda documents: "\n---\n".join(map(json.dumps, documents))])
def test_every_form_of_file_is_read(form: str, dump: Any) -> None:  # noqa: ANN401 (either of two functions)
    found = kube_proxy_configuration(dump(FORMS[form]).encode())
    assert found.document["clusterCIDR"] == "10.244.0.0/16"
    assert found.place == PLACES.get(form, "")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty, and no KubeProxyConfiguration"),
        (b"kind: Service", "has Service, and no KubeProxyConfiguration"),
        (b"- 1", "has no object, and no"),
        (b"a: [", "is not valid YAML"),
        (b"{", "is not valid JSON"),
        (b"\xff", "is not UTF-8"),
        (yaml.safe_dump_all([HEAD, HEAD]).encode(), "has 2 of kind KubeProxyConfiguration"),
        (yaml.safe_dump({**HEAD, "apiVersion": "kubeproxy.config.k8s.io/v1beta1"}).encode(), "v1beta1' is not known"),
        (
            yaml.safe_dump(file("x", conf="kind: KubeProxyConfiguration\na: [")).encode(),
            "ConfigMap kube-system/x, conf",
        ),
    ],
)
def test_what_is_no_configuration_is_said(data: bytes, message: str) -> None:
    with pytest.raises(NotFoundError, match=re.escape(message)):
        kube_proxy_configuration(data)


def run(file: Path | str, *options: str, stdin: str = "") -> Result:
    return CliRunner().invoke(app, ["migrate", str(file), *options], input=stdin)


def write(directory: Path, document: object) -> Path:
    path = directory / "kube-proxy.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def test_the_example_of_the_page_is_what_is_printed() -> None:
    console = re.search(
        r"^```console\n\$ pointsman migrate kube-proxy\.yaml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE
    )
    source = re.search(r"^```yaml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert console is not None
    assert source is not None
    done = run("-", stdin=source[1])
    assert (done.exit_code, done.stdout) == (0, console[1])
    fields = [line.split()[0] for line in done.stderr.replace("pointsman migrate: ", "").splitlines()]
    assert fields == ["metricsBindAddress", "iptables.masqueradeBit", "detectLocalMode", "detectLocal.bridgeInterface"]


def test_json_has_all_notes(tmp_path: Path) -> None:
    found = json.loads(run(write(tmp_path, config({"enableProfiling": True})), "-o", "json", "--name", "mine").stdout)
    assert found["proxyConfig"]["metadata"] == {"name": "mine"}
    assert found["notes"] == [{"field": "enableProfiling", "value": True, "note": "no counterpart"}]


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    done = run(tmp_path / "none.yaml")
    assert done.exit_code == 1
    assert "none.yaml: cannot be read (No such file or directory); name a file" in done.stderr


def test_a_name_that_is_none_is_refused(tmp_path: Path) -> None:
    assert run(write(tmp_path, HEAD), "--name", "My Config").exit_code == 2
