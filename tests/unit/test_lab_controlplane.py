"""The pure parts of the lab's control plane: certificates, kubeconfigs, what scheduler and kubelet write."""

from __future__ import annotations

import base64
import datetime as dt
import ssl
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from cryptography import x509

from pointsman.lab.controlplane import api, commands, definitions, documents, kubeconfigs, pki
from pointsman.lab.controlplane.api import Api, ApiRefusedError
from pointsman.lab.controlplane.example import MANIFESTS, split_columns
from pointsman.lab.controlplane.pod_hosts import PodHost, PodNode
from pointsman.lab.controlplane.pods import Pods, _Running
from pointsman.lab.namespaces import LabError, Namespace
from pointsman.lab.network import Host

if TYPE_CHECKING:
    from pathlib import Path

    from pointsman.lab.controlplane.api import Document

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
AT = "2026-01-01T00:00:00Z"


def pod(*ports: Document) -> Document:
    meta = {"namespace": "default", "name": "web", "uid": "1"}
    return {"metadata": meta, "spec": {"containers": [{"name": "c", "image": "i", "ports": ports}]}, "status": {}}


def test_a_pool_gives_each_address_once_and_reuses_late() -> None:
    pool = documents.Pool("192.168.0.0/29")
    pool.claim("192.168.0.3")
    first = [pool.take() for _ in range(3)]
    assert first == ["192.168.0.2", "192.168.0.4", "192.168.0.5"]
    pool.give_back("192.168.0.2")
    pool.give_back("192.168.0.5")
    assert [pool.take(), pool.take()] == ["192.168.0.2", "192.168.0.5"]
    with pytest.raises(LookupError, match=r"no address is left of 192\.168\.0\.0/29"):
        pool.take()


def test_a_pod_serves_what_its_containers_name() -> None:
    assert documents.ports(pod({"containerPort": 80}, {"containerPort": 53, "protocol": "UDP"})) == (
        (80, "tcp"),
        (53, "udp"),
    )
    assert documents.ports(pod()) == ((80, "tcp"),)


@pytest.mark.parametrize("ready", [True, False])
def test_a_running_pod_says_whether_it_is_ready(*, ready: bool) -> None:
    status = documents.running(pod(), host_addresses=("172.16.0.5",), addresses=("192.168.0.2",), ready=ready, at=AT)
    conditions = {condition["type"]: condition["status"] for condition in status["conditions"]}
    assert (status["phase"], status["podIP"], status["hostIP"]) == ("Running", "192.168.0.2", "172.16.0.5")
    assert conditions["Ready"] == conditions["ContainersReady"] == str(ready)
    assert status["containerStatuses"][0]["ready"] is ready


def test_the_authority_signs_for_names_and_addresses(tmp_path: Path) -> None:
    authority = pki.Authority("lab", NOW)
    pair = authority.server("kube-apiserver", ("localhost", "10.96.0.1"))
    certificate = x509.load_pem_x509_certificate(pair.certificate)
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.certificate))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["10.96.0.1"]
    for name, content in (("crt", pair.certificate), ("key", pair.key)):
        (tmp_path / name).write_bytes(content)
    ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(tmp_path / "crt", tmp_path / "key")


def test_a_users_groups_are_in_its_certificate() -> None:
    pair = pki.Authority("lab", NOW).client("admin", "system:masters")
    subject = x509.load_pem_x509_certificate(pair.certificate).subject.rfc4514_string()
    assert subject == "CN=admin,O=system:masters"


def test_a_kubeconfig_names_server_authority_and_token_file(tmp_path: Path) -> None:
    config = yaml.safe_load(kubeconfigs.with_token_file(b"CA", tmp_path / "token"))
    assert config["users"][0]["user"] == {"tokenFile": str(tmp_path / "token")}
    cluster = config["clusters"][0]["cluster"]
    assert cluster["server"] == "https://172.16.0.2:6443"
    assert base64.b64decode(cluster["certificate-authority-data"]) == b"CA"


def test_the_api_server_gets_the_settings(tmp_path: Path) -> None:
    settings = commands.Settings(node_port_range=commands.OWN_RANGE)
    command = commands.kube_apiserver(tmp_path / "kube-apiserver", tmp_path, settings)
    assert {"--service-node-port-range=30000-32767", "--authorization-mode=Node,RBAC"} <= set(command)


def test_kubectls_columns_begin_where_their_headings_do() -> None:
    text = "NAME    MODE       READY   NOMINATED NODE\na       nftables   3/3     <none>\nb                  \n"
    assert split_columns(text) == [
        ("NAME", "MODE", "READY", "NOMINATED NODE"),
        ("a", "nftables", "3/3", "<none>"),
        ("b", "", "", ""),
    ]


def test_the_tours_services_are_those_of_the_founding_example() -> None:
    port = {"port": 8080, "protocol": "TCP", "targetPort": 80}
    found = {path.stem: yaml.safe_load(path.read_text()) for path in MANIFESTS.glob("*.yaml")}
    assert found["service"]["spec"]["ports"] == [port]
    assert found["service"]["spec"]["clusterIP"] == "10.96.200.75"
    assert found["nodeport"]["spec"]["ports"] == [port | {"nodePort": 30000}]
    assert found["refused"]["spec"]["ports"] == [port | {"nodePort": 58080}]


class Busy(Api):
    """Has an API server that has no time at first."""

    def __init__(self, *statuses: int) -> None:
        self.left = list(statuses)

    def _exchange(self, method: str, path: str, body: Document | None, kind: str, timeout: float) -> tuple[int, bytes]:  # noqa: ARG002 - as the real one
        return self.left.pop(0), b'{"message": "storage is (re)initializing"}'


def test_an_api_server_that_has_no_time_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "_PAUSE", 0)
    busy = Busy(429, 429, 200, 404, 429)
    assert busy.get("/api/v1/nodes")
    assert busy.left == [404, 429]
    with pytest.raises(ApiRefusedError, match="404"):
        busy.get("/api/v1/nodes")
    monkeypatch.setattr(api, "_TIMEOUT", 0)
    with pytest.raises(ApiRefusedError, match="429"):
        busy.get("/api/v1/nodes")


class Clumsy:
    """A network and servers, of which nothing can be removed."""

    def running(self) -> tuple[()]:
        return ()

    def remove(self, host: Host) -> None:
        raise LabError(f"`ip link del {host.name}` failed")


def test_a_pod_that_cannot_be_removed_is_told_and_keeps_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    clumsy: Any = Clumsy()
    server: Any = object()
    deleted: list[str] = []
    pods = Pods(server, clumsy, clumsy, linger=0.0)
    monkeypatch.setattr(pods, "_delete", lambda document: deleted.append(document["metadata"]["uid"]))
    host = Host("web", "pod", Namespace("nowhere"), ("192.168.0.2",), None, 0)
    for uid in ("1", "2"):
        document = pod() | {"metadata": pod()["metadata"] | {"uid": uid}}
        pods._running[uid] = _Running(document, PodHost(PodNode(host, []), host, []), ends_at=0.0)
    pods._end_what_is_due(1.0)
    assert deleted == ["1", "2"]
    assert pods.failures == ["Pod default/web: `ip link del web` failed"] * 2


class Offers(Api):
    """Has one definition, and answers as far as it has come."""

    def __init__(self) -> None:
        names = {"plural": "things"}
        spec = {"group": "x", "names": names, "versions": [{"name": "v1", "served": True}]}
        self.definition: Document = {"spec": spec, "status": {"conditions": None}}
        self.answers: dict[str, Document] = {}

    def get(self, path: str, query: object = None) -> Document:
        assert query in (None, {"limit": "1"})
        if path.endswith("definitions"):
            return {"items": [self.definition]}
        if path not in self.answers:
            raise ApiRefusedError(404, {}, path)
        return self.answers[path]


def test_a_custom_resource_is_offered_when_it_is_established_served_and_named() -> None:
    offers = Offers()
    assert not definitions.are_offered(offers)
    offers.definition["status"]["conditions"] = [{"type": "Established", "status": "True"}]
    assert not definitions.are_offered(offers)
    offers.answers["/apis/x/v1/things"] = {"items": []}
    assert not definitions.are_offered(offers)
    offers.answers["/apis/x/v1"] = {"resources": [{"name": "things/status"}]}
    assert not definitions.are_offered(offers)
    offers.answers["/apis/x/v1"] = {"resources": [{"name": "things"}, {"name": "things/status"}]}
    assert definitions.are_offered(offers)
