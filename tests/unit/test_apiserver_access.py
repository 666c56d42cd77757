"""What a kubeconfig file, or a Pod, says of an API server: credentials of every form, and how they are renewed."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from kubernetes.aio.config import incluster_config, kube_config

from pointsman.sources.apiserver.access import Access, Credentials, load
from pointsman.sources.protocol import SourceError
from support.kubeconfigs import EXEC_API, OTHER_SERVER, SERVER, kubeconfig, plugin

if TYPE_CHECKING:
    from pathlib import Path

    from kubernetes.aio.client import Configuration

pytestmark = pytest.mark.filterwarnings("ignore:datetime.datetime.utc:DeprecationWarning")  # the official client's


def loaded(file: Path, context: str | None = None, server: str | None = None) -> Configuration:
    return asyncio.run(load(Access(kubeconfig=file, context=context, server=server)))


def tokens(file: Path, *refused: bool) -> list[str | None]:
    """Load once, and once more for each of `refused`; return what is used each time."""

    async def run() -> list[str | None]:
        credentials = Credentials(Access(kubeconfig=file))
        found = [await credentials.load()]
        found += [await credentials.load(refused=now) for now in refused]
        return [configuration.api_key.get("BearerToken") for configuration in found]

    return asyncio.run(run())


def soon(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def test_the_current_context_and_another_one(tmp_path: Path) -> None:
    file = kubeconfig(tmp_path, {"token": "t"})
    assert loaded(file).host == SERVER
    assert loaded(file, context="other").host == OTHER_SERVER


def test_another_server(tmp_path: Path) -> None:
    assert loaded(kubeconfig(tmp_path, {"token": "t"}), server="https://node:6443/").host == "https://node:6443"


@pytest.mark.parametrize("server", ["10.0.0.1:6443", "node", "https://", "https://node:port", "ftp://node"])
def test_a_server_that_is_no_url(tmp_path: Path, server: str) -> None:
    with pytest.raises(SourceError, match=r"--server .*: not a URL.*https://HOST:PORT"):
        loaded(kubeconfig(tmp_path, {"token": "t"}), server=server)


def test_a_token_file_is_read_again_and_its_newline_is_none_of_the_token(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    file = kubeconfig(tmp_path, {"tokenFile": str(token)})

    async def run() -> None:
        credentials = Credentials(Access(kubeconfig=file))
        assert (await credentials.load()).api_key["BearerToken"] == "Bearer first"
        token.write_text("second\n")
        assert (await credentials.load()).api_key["BearerToken"] == "Bearer second"

    asyncio.run(run())


def test_a_token_of_two_lines_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"kubeconfig.*token.*control character"):
        loaded(kubeconfig(tmp_path, {"token": "a\nb"}))


def test_a_changed_kubeconfig_is_read_again(tmp_path: Path) -> None:
    file = kubeconfig(tmp_path, {"token": "first"})

    async def run() -> None:
        credentials = Credentials(Access(kubeconfig=file))
        await credentials.load()
        kubeconfig(tmp_path, {"token": "the second one"})
        assert (await credentials.load()).api_key["BearerToken"] == "Bearer the second one"

    asyncio.run(run())


def test_an_exec_plugin_runs_once_when_its_token_has_no_end(tmp_path: Path) -> None:
    file = kubeconfig(tmp_path, plugin(tmp_path, {"token": "run-RUN"}))
    assert tokens(file, False, False) == ["Bearer run-1"] * 3  # noqa: FBT003 -- refused or not, in order


def test_an_exec_plugin_runs_again_when_the_token_is_refused(tmp_path: Path) -> None:
    file = kubeconfig(tmp_path, plugin(tmp_path, {"token": "run-RUN"}))
    assert tokens(file, True, False) == ["Bearer run-1", "Bearer run-2", "Bearer run-2"]  # noqa: FBT003 -- as above


@pytest.mark.parametrize(("seconds", "runs"), [(3600, 1), (-1, 2)])
def test_an_exec_plugin_runs_again_when_its_token_has_ended(tmp_path: Path, seconds: float, runs: int) -> None:
    status = {"token": "run-RUN", "expirationTimestamp": soon(seconds)}
    file = kubeconfig(tmp_path, plugin(tmp_path, status))
    assert tokens(file, False)[-1] == f"Bearer run-{runs}"  # noqa: FBT003 -- as above


def test_an_exec_plugin_with_a_certificate(tmp_path: Path) -> None:
    user = plugin(tmp_path, {"clientCertificateData": "CERTIFICATE RUN", "clientKeyData": "KEY RUN"})
    file = kubeconfig(tmp_path, user)

    async def run() -> list[tuple[str, str]]:
        credentials = Credentials(Access(kubeconfig=file))
        found = [await credentials.load(), await credentials.load(), await credentials.load(refused=True)]
        return [(_text(one.cert_file), _text(one.key_file)) for one in found]

    assert asyncio.run(run()) == [
        ("CERTIFICATE 1", "KEY 1"),
        ("CERTIFICATE 1", "KEY 1"),
        ("CERTIFICATE 2", "KEY 2"),
    ]


def _text(file: str) -> str:
    with open(file) as opened:  # noqa: PTH123 -- the official client gives a str
        return opened.read()


@pytest.mark.parametrize(
    "command",
    [
        {"command": "/nowhere/get-token"},
        {"command": "sh", "args": ["-c", "echo no session >&2; exit 3"]},
        {"command": "sh", "args": ["-c", "echo no JSON"]},
    ],
)
def test_an_exec_plugin_that_gives_nothing_is_named(tmp_path: Path, command: dict[str, Any]) -> None:
    file = kubeconfig(tmp_path, {"exec": {"apiVersion": EXEC_API, **command}})
    with pytest.raises(SourceError, match=rf"--kubeconfig .*: the exec plugin {command['command']} gave no credential"):
        loaded(file)


def test_a_load_that_takes_too_long_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pointsman.sources.apiserver.access._PATIENCE", 0.05)
    file = kubeconfig(tmp_path, {"token": "t"})

    async def hang(*_args: object, **_options: object) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(kube_config.KubeConfigLoader, "load_and_set", hang)
    with pytest.raises(SourceError, match=r"--kubeconfig .*: no credentials within 0.05 s"):
        loaded(file)


def test_a_refresh_token_is_used_up_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OIDC: an issuer that rotates refresh tokens takes each one once; they are not written back to the file."""
    given: list[str] = []

    async def refresh(_self: object, token: str) -> dict[str, str]:
        given.append(token)
        return {"id_token": _jwt(len(given)), "refresh_token": f"refresh-{len(given)}"}

    monkeypatch.setattr(kube_config.OpenIDRequestor, "refresh_token", refresh)
    config = {"client-id": "c", "client-secret": "s", "idp-issuer-url": "https://issuer", "refresh-token": "refresh-0"}
    file = kubeconfig(tmp_path, {"auth-provider": {"name": "oidc", "config": config}})
    assert tokens(file, False, True, False)[-1] == f"Bearer {_jwt(4)}"  # noqa: FBT003 -- refused or not, in order
    assert given == ["refresh-0", "refresh-1", "refresh-2", "refresh-3"]


def _jwt(number: int) -> str:
    """Return a token that has ended already."""
    claims = base64.urlsafe_b64encode(json.dumps({"exp": int(time.time()) - 999_000, "n": number}).encode())
    return f"e30.{claims.decode().rstrip('=')}.x"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("- a list", "is no kubeconfig"),
        ("{", "is no YAML"),
        ("kind: Config", "current-context"),
    ],
)
def test_a_file_that_is_no_kubeconfig(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text(text)
    with pytest.raises(SourceError, match=rf"--kubeconfig {file}: .*{said}.*; "):
        loaded(file)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"nowhere: cannot read the file \(No such file or directory\); name another"):
        loaded(tmp_path / "nowhere")


def test_certificates_in_the_file_need_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_: object, **__: object) -> None:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr("tempfile.mkstemp", no_room)
    data = base64.b64encode(b"of no other test: the loader keeps what it wrote once").decode()
    cluster = {"server": "https://10.0.0.1:6443", "certificate-authority-data": data}
    file = kubeconfig(tmp_path, {"token": "t"}, **cluster)
    with pytest.raises(SourceError, match=r"No usable temporary directory.*TMPDIR, or as an emptyDir at /tmp"):
        loaded(file)


def test_an_unknown_context(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"Expected object with name nope in .*contexts list; .*--context"):
        loaded(kubeconfig(tmp_path, {"token": "t"}), context="nope")


def test_certificates_need_not_hold_what_only_the_strictest_ask_for(tmp_path: Path) -> None:
    """Cluster CAs without an authority key identifier are common (kubernetes-client/python#2394)."""
    assert loaded(kubeconfig(tmp_path, {"token": "t"})).disable_strict_ssl_verification


@pytest.fixture
def pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make this process one in a Pod; return the directory of its ServiceAccount."""
    (tmp_path / "token").write_text("mine\n")
    (tmp_path / "ca.crt").write_text("a certificate")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    return tmp_path


def test_in_a_pod(pod: Path) -> None:
    configuration = asyncio.run(load(Access(in_cluster=True)))
    assert (configuration.host, configuration.ssl_ca_cert) == ("https://[fd00::1]:443", str(pod / "ca.crt"))
    assert configuration.api_key["BearerToken"] == "bearer mine"


@pytest.mark.usefixtures("pod")
def test_in_a_pod_without_the_cluster_ip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST")
    assert asyncio.run(load(Access(in_cluster=True, server="https://node-0"))).host == "https://node-0"
    with pytest.raises(SourceError, match=r"--in-cluster: Service host/port is not set; run in a Pod"):
        asyncio.run(load(Access(in_cluster=True)))


def test_in_a_pod_the_token_is_read_again(pod: Path) -> None:
    async def run() -> None:
        credentials = Credentials(Access(in_cluster=True))
        await credentials.load()
        (pod / "token").write_text("renewed")
        assert (await credentials.load()).api_key["BearerToken"] == "bearer renewed"

    asyncio.run(run())
