"""A cluster as the admission rules see it, filled by hand, and reviews as an API server sends them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pointsman.api.proxyconfig import ProxyConfig
from pointsman.api.values import PortRange
from pointsman.controller.admission.review import answer, judge, read_request

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pointsman.controller.admission.picture import Picture
    from pointsman.model.objects import Service

DEFAULT_RANGE = PortRange(30000, 32767)


class HandPicture:
    """Holds what a test says."""

    def __init__(
        self,
        *,
        ranges: tuple[tuple[str, PortRange], ...] = (("default", DEFAULT_RANGE),),
        users: Mapping[tuple[int, str], tuple[str, ...]] | None = None,
        configs: tuple[ProxyConfig, ...] = (),
        nodes: Mapping[str, Mapping[str, str]] | None = None,
        namespaces: Mapping[str, Mapping[str, str]] | None = None,
        services: tuple[Service, ...] = (),
    ) -> None:
        self.ranges = ranges
        self.users = users or {}
        self.configs: Mapping[str, ProxyConfig] = {config.name: config for config in configs}
        self.nodes = nodes or {}
        self.namespaces = namespaces or {}
        self.services = services

    def effective_configs(self) -> tuple[ProxyConfig, ...]:
        return tuple(self.configs.values())

    def node_port_ranges(self, _namespace: str) -> tuple[tuple[str, PortRange], ...]:
        return self.ranges

    def node_port_users(self, port: int, protocol: str) -> tuple[str, ...]:
        return self.users.get((port, protocol), ())

    def node_labels(self) -> Mapping[str, Mapping[str, str]]:
        return self.nodes

    def namespace_labels(self, namespace: str) -> Mapping[str, str]:
        return self.namespaces.get(namespace, {})

    def node_port_services(self) -> tuple[Service, ...]:
        return self.services


def config(name: str, **spec: object) -> ProxyConfig:
    return ProxyConfig.read({"metadata": {"name": name}, "spec": spec})


def service(
    *ports: Mapping[str, object],
    name: str = "web",
    kind: str = "NodePort",
    scheduler: str | None = None,
    flags: str | None = None,
    metadata: Mapping[str, object] | None = None,
    **spec: object,
) -> dict[str, Any]:
    """Write a Service; a port is its fields."""
    annotations = {} if scheduler is None else {"pointsman.dev/scheduler": scheduler}
    annotations |= {} if flags is None else {"pointsman.dev/scheduler-flags": flags}
    head = {"name": name, "namespace": "shop", "annotations": annotations, **(metadata or {})}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": head,
        "spec": {"type": kind, "clusterIP": "10.96.0.10", "ports": list(ports), **spec},
    }


def port(number: int, node_port: int | None = None, protocol: str = "TCP", **more: object) -> dict[str, object]:
    return {"port": number, "protocol": protocol, **({"nodePort": node_port} if node_port is not None else {}), **more}


def review(new: object, old: object = None, *, kind: str = "Service", **request: object) -> bytes:
    """Write an AdmissionReview: of a new object, or of the update of an old one."""
    group = "" if kind == "Service" else "pointsman.dev"
    return json.dumps(
        {
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "request": {
                "uid": "7f1c",
                "kind": {"group": group, "version": "v1", "kind": kind},
                "name": "web",
                "namespace": "shop" if kind == "Service" else "",
                "operation": "CREATE" if old is None else "UPDATE",
                "object": new,
                "oldObject": old,
                "dryRun": False,
                **request,
            },
        }
    ).encode()


class Answer:
    """A response, read."""

    def __init__(self, body: bytes) -> None:
        self.document: dict[str, Any] = json.loads(body)
        response = self.document["response"]
        self.uid: str = response["uid"]
        self.allowed: bool = response["allowed"]
        self.status: dict[str, Any] = response.get("status", {})
        self.warnings: list[str] = response.get("warnings", [])
        causes = self.status.get("details", {}).get("causes", [])
        self.causes: list[str] = [f"{cause['field']}: {cause['message']}" for cause in causes]
        self.reasons: list[str] = [cause["reason"] for cause in causes]


def ask(body: bytes, picture: Picture | None = None) -> Answer:
    """Review as the server does."""
    request = read_request(body)
    return Answer(answer(request, judge(request, picture or HandPicture())))
