"""Reviews over real TLS on loopback: the server in a process of its own, the client as an API server's connections."""

from __future__ import annotations

import asyncio
import datetime as dt
import http.client
import itertools
import json
import multiprocessing
import ssl
import statistics
import time
from typing import TYPE_CHECKING, Any, Final

from pointsman.controller.admission.certificates import renewed
from pointsman.controller.admission.server import AdmissionServer
from pointsman.controller.admission.tls import ServingCertificate
from pointsman.controller.view import View
from pointsman.model.parse import parse

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection

    from pointsman.controller.admission.certificates import Credentials

_HOST: Final = "127.0.0.1"
_FIRST_PORT: Final = 10000
_NEW_CONNECTION_EVERY: Final = 50
"""Reviews; the API server keeps its connections, and opens new ones when many are asked at a time."""


def reviews(services: int, count: int) -> dict[str, float]:
    """Review Services, of which every fifth is refused, against a picture with many.

    Args:
        services: in the picture, each with a node port.
        count: of reviews.
    """
    ours, theirs = multiprocessing.Pipe()
    credentials = renewed(None, [_HOST], dt.datetime.now(dt.UTC))
    server = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs, credentials, services))
    server.start()
    try:
        milliseconds = sorted(_ask(ours.recv(), credentials.authorities, services, count))
    finally:
        server.terminate()
        server.join()
    return {
        "p50 ms": statistics.median(milliseconds),
        "p99 ms": milliseconds[len(milliseconds) * 99 // 100],
        "max ms": milliseconds[-1],
    }


def _serve(ready: Connection, credentials: Credentials, services: int) -> None:
    view, certificate = View(), ServingCertificate()
    for number in range(services):
        (written,) = parse(json.dumps(_service(number, _FIRST_PORT + number)).encode()).objects
        view.put(written)
    certificate.load(credentials)
    server = AdmissionServer(view, certificate, is_filled=lambda: True, host=_HOST, port=0)

    async def serve() -> None:
        async with server.listening():
            ready.send(server.addresses[0][1])
            await asyncio.Event().wait()

    asyncio.run(serve())


def _ask(port: int, authorities: bytes, services: int, count: int) -> Iterator[float]:
    trust = ssl.create_default_context(cadata=authorities.decode())
    for number, body in enumerate(itertools.islice(_bodies(services), count)):
        begun = time.perf_counter()
        if number % _NEW_CONNECTION_EVERY == 0:
            connection = http.client.HTTPSConnection(_HOST, port, context=trust)
        connection.request("POST", "/validate/services", body, {"Content-Type": "application/json"})
        answer = connection.getresponse().read()
        yield (time.perf_counter() - begun) * 1000
        if json.loads(answer)["response"]["allowed"] == (number % 5 == 4):
            raise RuntimeError(f"review {number} came out wrong: {answer.decode()}")


def _bodies(services: int) -> Iterator[bytes]:
    for number in itertools.count():
        fifth = number % 5 == 4
        port = _FIRST_PORT + number % services if fifth else 30001
        request = {
            "uid": str(number),
            "kind": {"group": "", "version": "v1", "kind": "Service"},
            "operation": "CREATE",
            "name": "new",
            "namespace": "shop",
            "object": _service(number, port, "new"),
        }
        document = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
        yield json.dumps(document).encode()


def _service(number: int, node_port: int, name: str = "") -> dict[str, Any]:
    ports = [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080, "nodePort": node_port}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name or f"web-{number}", "namespace": "shop", "labels": {"app": "web"}},
        "spec": {"type": "NodePort", "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"], "ports": ports},
    }
