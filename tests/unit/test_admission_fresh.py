"""Refusals are looked at once more with what the API server says at this moment."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from pointsman.api.values import PortRange
from pointsman.controller.admission.fresh import SecondLook
from pointsman.controller.admission.review import judge, read_request
from support.api_memory import MemoryApi
from support.pictures import HandPicture, port, review, service

if TYPE_CHECKING:
    import pytest

    from pointsman.controller.admission.causes import Verdict

CONFIGS = "/apis/pointsman.dev/v1alpha1/proxyconfigs"
SHOP = "/api/v1/namespaces/shop"
TAKEN = HandPicture(users={(30080, "tcp"): ("shop/api",)})


def looked(api: MemoryApi, picture: HandPicture, written: dict[str, Any]) -> Verdict:
    request = read_request(review(written))
    before = judge(request, picture)
    assert before.causes
    return asyncio.run(SecondLook(api, picture)(request, before))  # type: ignore[arg-type]  # what is used of a client


def test_a_port_of_a_service_that_is_gone_is_free() -> None:
    assert looked(MemoryApi(), TAKEN, service(port(80, 30080))).causes == ()


def test_a_port_that_another_service_gave_up_is_free() -> None:
    api = MemoryApi()
    api.put(f"{SHOP}/services/api", service(port(80, 30081), name="api"))
    assert looked(api, TAKEN, service(port(80, 30080))).causes == ()


def test_a_port_that_is_still_anothers_is_refused() -> None:
    api = MemoryApi()
    api.put(f"{SHOP}/services/api", service(port(80, 30080), name="api"))
    assert "to Service shop/api" in looked(api, TAKEN, service(port(80, 30080))).causes[0].message


def test_a_namespace_that_came_just_now_has_its_range() -> None:
    api = MemoryApi()
    own = {"namespaceSelector": {"matchLabels": {"team": "shop"}}, "range": "31000-31099"}
    api.put(CONFIGS, {"items": [{"metadata": {"name": "default"}, "spec": {"nodePortRanges": [own]}}]})
    api.put(SHOP, {"kind": "Namespace", "metadata": {"name": "shop", "labels": {"team": "shop"}}})
    picture = HandPicture(ranges=(("default", PortRange(1, 2)),))
    assert looked(api, picture, service(port(80, 31001))).causes == ()
    assert "31000-31099" in looked(api, picture, service(port(80, 30001))).causes[0].message


def test_a_configuration_that_came_just_now_counts_if_a_node_gets_it() -> None:
    api = MemoryApi()
    wide = {
        "metadata": {"name": "wide"},
        "spec": {"nodePortRange": "1-65535", "nodeSelector": {"matchLabels": {"z": "a"}}},
    }
    api.put(CONFIGS, {"items": [{"metadata": {"name": "plain"}, "spec": {"priority": -1}}, wide]})
    of_node = service(port(80, 58080))
    assert looked(api, HandPicture(nodes={"n": {"z": "a"}}), of_node).causes == ()
    assert len(looked(api, HandPicture(nodes={"n": {"z": "b"}}), of_node).causes) == 1


def test_without_a_configuration_the_default_range_holds() -> None:
    assert "30000-32767" in looked(MemoryApi(), TAKEN, service(port(80, 58080))).causes[0].message


def test_when_nothing_can_be_read_the_refusal_stands() -> None:
    api = MemoryApi()
    api.is_away = True
    assert len(looked(api, TAKEN, service(port(80, 30080))).causes) == 1


def test_one_that_does_not_answer_in_time_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pointsman.controller.admission.fresh._PATIENCE", 0.01)
    api = MemoryApi()

    async def never(*_: object) -> bytes:
        await asyncio.sleep(60)
        return b""

    monkeypatch.setattr(api, "get", never)
    assert len(looked(api, TAKEN, service(port(80, 30080))).causes) == 1


def test_configurations_that_cannot_be_read_count_as_none() -> None:
    api = MemoryApi()
    api.put(CONFIGS, {"items": [{"metadata": {}, "spec": 1}, {"metadata": {"name": "a"}, "spec": {"mode": "?"}}]})
    assert looked(api, TAKEN, service(port(80, 30080))).causes == ()
    api.put(CONFIGS, {"items": 3})
    assert len(looked(api, TAKEN, service(port(80, 30080))).causes) == 1


def test_a_refused_proxy_config_needs_no_second_look() -> None:
    api = MemoryApi()
    request = read_request(review({"metadata": {"name": "x"}, "spec": {"mode": "?"}}, kind="ProxyConfig"))
    before = judge(request, TAKEN)
    assert asyncio.run(SecondLook(api, TAKEN)(request, before)) is before  # type: ignore[arg-type]  # as above
    assert api.reads == []


def test_what_is_unreadable_stays_refused() -> None:
    written = json.loads(json.dumps(service(port(80, 30080))))
    written["spec"]["ports"] = "x"
    assert len(looked(MemoryApi(), TAKEN, written).causes) == 1
