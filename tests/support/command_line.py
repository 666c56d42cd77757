"""What tests of several commands share: a manifest, questions that make no sense, and how to read a refusal."""

from __future__ import annotations

from typing import Final

SENSELESS: Final = (
    ("10.0.0.7", "10.96.0.1", "write IP:PORT or [IPv6]:PORT"),
    ("10.0.0.7", "10.96.0.1:0", "with a port from 1 to 65535"),
    ("10.0.0.7", "10.96.0.1:80/icmp", "the protocol is one of tcp, udp, sctp"),
    ("10.0.0.7", "fd00::1:80", "write IP:PORT or [IPv6]:PORT"),
    ("10.0.0.7", "[10.96.0.1]:80", "write IP:PORT or [IPv6]:PORT"),
    ("10.0.0.7", "web:80", "no IP address"),
    ("10.0.0.7", "[fd00::1]:80", "are of different IP families"),
    ("me", "10.96.0.1:80", "no IP address"),
)
"""Values of ``--from`` and ``--to``, and what is said of them."""


def web(*endpoints: str, annotations: str = "{}", spec: str = "{}") -> str:
    """Write a manifest: the Service ``default/web``, 10.96.0.1:80 to port 8080, and its EndpointSlice.

    Args:
        endpoints: each as YAML.
        annotations: of the Service, as YAML.
        spec: more fields of the Service's, as YAML.
    """
    return f"""
apiVersion: v1
kind: Service
metadata: {{namespace: default, name: web, annotations: {annotations}}}
spec: {{<<: {spec}, clusterIP: 10.96.0.1, ports: [{{port: 80, targetPort: 8080}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{namespace: default, name: web-1, labels: {{kubernetes.io/service-name: web}}}}
addressType: IPv4
ports: [{{port: 8080, protocol: TCP}}]
endpoints: [{", ".join(endpoints)}]
"""


def said(output: str) -> str:
    """Return what a command says on one line, without the box that a terminal would get around it."""
    return " ".join(output.replace("│", " ").split())
