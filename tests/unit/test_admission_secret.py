"""Sharing certificates through a Secret: replicas, rotation, another issuer, and what goes wrong."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import logging
import ssl
from typing import TYPE_CHECKING, Any

import pytest

from pointsman.controller.admission.bundle import CONFIGURATIONS, read_secret, secret_document
from pointsman.controller.admission.certificates import AUTHORITY_LIFE, Credentials, is_usable, renewed
from pointsman.controller.admission.secret import CertificateKeeper
from pointsman.controller.admission.tls import ServingCertificate
from pointsman.sources.apiserver.client import ApiError, Unreachable
from support.api_memory import MemoryApi

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

NAMESPACE = "pointsman-system"
SECRETS = f"/api/v1/namespaces/{NAMESPACE}/secrets"
SECRET = f"{SECRETS}/pointsman-webhook-tls"
CONFIGURATION = f"{CONFIGURATIONS}/pointsman"
HOSTS = (f"pointsman-webhook.{NAMESPACE}.svc",)
NOW = dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)


class Replica:
    """An operator's part that keeps certificates, with a clock and a leadership to set."""

    def __init__(self, api: MemoryApi, *, leads: bool = True, makes: bool = True) -> None:
        self.serving = ServingCertificate()
        self.leads = leads
        self.now = NOW
        self.keeper = CertificateKeeper(
            api,  # type: ignore[arg-type]  # what the keeper uses of a client
            self.serving,
            namespace=NAMESPACE,
            hosts=HOSTS,
            makes=makes,
            leads=lambda: self.leads,
            clock=lambda: self.now,
        )

    @property
    def serves(self) -> bytes:
        """The certificate and key that it serves."""
        assert self.serving._loaded is not None
        return b"".join(self.serving._loaded)

    def look(self) -> None:
        run(self.keeper.look())


def run(work: Awaitable[None]) -> None:
    async def main() -> None:
        await work

    asyncio.run(main())


def configuration(api: MemoryApi, *bundles: str | None) -> None:
    webhooks = [
        {"name": f"w{index}", "clientConfig": {"service": {}} | ({} if bundle is None else {"caBundle": bundle})}
        for index, bundle in enumerate(bundles)
    ]
    api.put(CONFIGURATION, {"kind": "ValidatingWebhookConfiguration", "webhooks": webhooks})


def stored(api: MemoryApi) -> Credentials:
    return read_secret(run_get(api)).credentials


def run_get(api: MemoryApi) -> bytes:
    return asyncio.run(api.get(SECRET))


def bundles(api: MemoryApi) -> list[bytes]:
    return [base64.b64decode(hook["clientConfig"]["caBundle"]) for hook in api.objects[CONFIGURATION]["webhooks"]]


def cert_manager_secret(api: MemoryApi, credentials: Credentials) -> None:
    document: dict[str, Any] = secret_document(NAMESPACE, credentials)
    del document["data"]["ca.key"]
    api.put(SECRET, document)


def test_the_first_replica_makes_the_secret_and_all_serve_it() -> None:
    api = MemoryApi()
    configuration(api, None, "")
    one, two = Replica(api, leads=False), Replica(api, leads=False)
    one.look()
    two.look()
    assert api.writes == [("post", SECRET)]
    assert one.serves == two.serves
    assert is_usable(stored(api), NOW)
    assert api.objects[SECRET]["type"] == "kubernetes.io/tls"


def test_of_two_at_the_same_moment_one_wins() -> None:
    api = MemoryApi()
    one, two = Replica(api, leads=False), Replica(api, leads=False)

    async def both() -> None:
        await asyncio.gather(one.keeper.look(), two.keeper.look())

    run(both())
    assert one.serves == two.serves
    assert api.writes == [("post", SECRET)]


def test_the_leader_keeps_the_bundle_true() -> None:
    api = MemoryApi()
    configuration(api, None, "b2xk")
    leader = Replica(api)
    leader.look()
    assert bundles(api) == [stored(api).authorities] * 2
    leader.look()
    assert api.writes == [("post", SECRET), ("patch", CONFIGURATION)], "nothing is written when nothing has to be"
    configuration(api, None)  # somebody applied the manifest again
    leader.look()
    assert bundles(api) == [stored(api).authorities]


def test_a_follower_writes_no_bundle() -> None:
    api = MemoryApi()
    configuration(api, None)
    Replica(api, leads=False).look()
    assert api.writes == [("post", SECRET)]


def test_the_leader_renews_and_followers_take_it_over() -> None:
    api = MemoryApi()
    leader, follower = Replica(api), Replica(api, leads=False)
    leader.look()
    follower.look()
    before = leader.serves
    leader.now = follower.now = NOW + 300 * DAY
    follower.look()
    assert follower.serves == before, "it does not renew"
    leader.look()
    follower.look()
    assert leader.serves == follower.serves != before


def test_an_expired_certificate_is_replaced() -> None:
    api = MemoryApi()
    api.put(SECRET, secret_document(NAMESPACE, renewed(None, HOSTS, NOW - 400 * DAY)))
    leader = Replica(api)
    leader.look()
    assert is_usable(stored(api), NOW)
    assert leader.serves == stored(api).certificate + stored(api).key


def test_a_new_authority_is_in_the_bundle_before_anything_that_it_signed_is_served() -> None:
    api = MemoryApi()
    configuration(api, None)
    leader = Replica(api)
    leader.look()
    leader.now = NOW + AUTHORITY_LIFE * 2 / 3 - DAY
    leader.look()
    before = leader.serves
    leader.now += DAY
    leader.look()
    assert leader.serves == before
    assert bundles(api)[0].count(b"BEGIN CERTIFICATE") == 2
    leader.now += dt.timedelta(hours=2)
    leader.look()
    assert leader.serves != before
    leader.now += dt.timedelta(hours=2)
    leader.look()
    assert bundles(api)[0].count(b"BEGIN CERTIFICATE") == 1


def test_a_new_leader_on_another_moment_does_not_undo_it() -> None:
    api = MemoryApi()
    one, two = Replica(api), Replica(api)
    one.look()
    one.now = two.now = NOW + 300 * DAY

    async def both() -> None:
        await asyncio.gather(one.keeper.look(), two.keeper.look())  # both believe that they lead

    run(both())
    one.look()
    two.look()
    assert one.serves == two.serves
    assert [verb for verb, path in api.writes if path == SECRET] == ["post", "patch"]


@pytest.mark.parametrize("data", [None, {}, {"tls.crt": "%%%", "ca.key": "eA=="}, {"tls.crt": "", "tls.key": ""}])
def test_a_secret_that_holds_nothing_of_use_is_filled_and_keeps_its_labels(data: dict[str, str] | None) -> None:
    api = MemoryApi()
    api.put(SECRET, {"metadata": {"labels": {"managed-by": "Helm"}}, "type": "kubernetes.io/tls", "data": data})
    Replica(api).look()
    assert is_usable(stored(api), NOW)
    assert api.objects[SECRET]["metadata"]["labels"] == {"managed-by": "Helm"}


class TestAnotherIssuer:
    def test_its_certificates_are_served_and_never_written(self) -> None:
        api = MemoryApi()
        configuration(api, None)
        theirs = renewed(None, HOSTS, NOW - 300 * DAY)
        cert_manager_secret(api, theirs)
        leader = Replica(api)
        leader.look()
        assert leader.serves == theirs.certificate + theirs.key
        assert bundles(api) == [theirs.authorities]
        newer = renewed(None, HOSTS, NOW)
        cert_manager_secret(api, newer)
        leader.look()
        assert leader.serves == newer.certificate + newer.key
        assert {path for _, path in api.writes} == {CONFIGURATION}

    def test_it_is_waited_for(self, caplog: pytest.LogCaptureFixture) -> None:
        api = MemoryApi()
        replica = Replica(api, makes=False)
        with caplog.at_level(logging.WARNING):
            replica.look()
            replica.look()
        assert len(caplog.records) == 1
        assert "waiting for it" in caplog.text
        assert not replica.serving.is_loaded
        cert_manager_secret(api, renewed(None, HOSTS, NOW))
        replica.look()
        assert replica.serving.is_loaded
        assert api.writes == []

    def test_one_that_names_no_authority_leaves_the_bundle_alone(self) -> None:
        api = MemoryApi()
        configuration(api, "b2xk")
        cert_manager_secret(api, renewed(None, HOSTS, NOW)._replace(authorities=b""))
        Replica(api).look()
        assert bundles(api) == [b"old"]


class TestTrouble:
    def test_no_configuration_is_told_once(self, caplog: pytest.LogCaptureFixture) -> None:
        leader = Replica(MemoryApi())
        with caplog.at_level(logging.WARNING):
            leader.look()
            leader.look()
        assert [record.message for record in caplog.records] == [
            "there is no ValidatingWebhookConfiguration pointsman: nothing asks the webhook"
        ]

    def test_what_cannot_be_served_leaves_the_old_one(self) -> None:
        api = MemoryApi()
        replica = Replica(api, leads=False)
        replica.look()
        before = replica.serves
        api.objects[SECRET]["data"]["tls.key"] = "eA=="
        with pytest.raises(ssl.SSLError):
            replica.look()
        assert replica.serves == before

    def test_an_api_server_that_is_away_is_told_once_and_asked_again(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("pointsman.controller.admission.secret._SOON", 0.001)
        api = MemoryApi()
        api.is_away = True
        replica = Replica(api)

        async def scenario() -> None:
            task = asyncio.create_task(replica.keeper.run())
            await asyncio.sleep(0.05)
            api.is_away = False
            for _ in range(200):
                await asyncio.sleep(0.005)
                if replica.serving.is_loaded:
                    break
            task.cancel()

        with caplog.at_level(logging.WARNING):
            asyncio.run(scenario())
        assert replica.serving.is_loaded
        assert sum("no answer" in record.message for record in caplog.records) == 1

    def test_a_replica_that_begins_to_lead_writes_the_bundle_soon(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("pointsman.controller.admission.secret._SOON", 0.001)
        api = MemoryApi()
        configuration(api, None)
        replica = Replica(api, leads=False)

        def bundle() -> str | None:
            found: str | None = api.objects[CONFIGURATION]["webhooks"][0]["clientConfig"].get("caBundle")
            return found

        async def scenario() -> None:
            task = asyncio.create_task(replica.keeper.run())
            await until(lambda: replica.serving.is_loaded)
            assert bundle() is None
            replica.leads = True
            await until(lambda: bundle() is not None)
            task.cancel()

        async def until(done: Callable[[], bool]) -> None:
            for _ in range(1000):
                await asyncio.sleep(0.001)
                if done():
                    return
            raise AssertionError("not before the next look that is due anyway")

        asyncio.run(scenario())

    @pytest.mark.parametrize("error", [ApiError(403, "Forbidden", "secrets is forbidden"), Unreachable("gone")])
    def test_errors_come_out_of_a_look(self, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
        api = MemoryApi()

        async def fail(*_: object) -> bytes:
            raise error

        monkeypatch.setattr(api, "get", fail)
        with pytest.raises(type(error)):
            Replica(api).look()
