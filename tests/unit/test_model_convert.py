"""Services, EndpointSlices and Endpoints: which fields count, and how."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pointsman.model.objects import Endpoint, EndpointPort, Endpoints, EndpointSlice, Pod, Service, ServicePort
from pointsman.model.parse import Parsed, parse

VECTORS = Path(__file__).parents[1] / "vectors"


def read(kind: str, metadata: object = None, **fields: object) -> Parsed:
    groups = {"EndpointSlice": "discovery.k8s.io/v1"}
    metadata = {"name": "web", **(metadata if isinstance(metadata, dict) else {})}
    document = {"apiVersion": groups.get(kind, "v1"), "kind": kind, "metadata": metadata, **fields}
    return parse(json.dumps(document).encode(), "f")


def service(metadata: object = None, status: object = None, **spec: object) -> tuple[Service, list[str]]:
    parsed = read("Service", metadata, spec={"clusterIP": "10.96.0.1", **spec}, status=status)
    (found,) = parsed.objects
    assert isinstance(found, Service)
    return found, [str(problem).removeprefix("f: Service default/web: ") for problem in parsed.problems]


def slice_(*endpoints: object, metadata: object = None, **fields: object) -> tuple[EndpointSlice, list[str]]:
    parsed = read("EndpointSlice", metadata, **{"addressType": "IPv4", "endpoints": [*endpoints], **fields})
    (found,) = parsed.objects
    assert isinstance(found, EndpointSlice)
    return found, [str(problem).removeprefix("f: EndpointSlice default/web: ") for problem in parsed.problems]


def endpoints(metadata: object = None, *subsets: object) -> tuple[Endpoints, list[str]]:
    parsed = read("Endpoints", metadata, subsets=[*subsets])
    (found,) = parsed.objects
    assert isinstance(found, Endpoints)
    return found, [str(problem).removeprefix("f: Endpoints default/web: ") for problem in parsed.problems]


def test_a_full_service() -> None:
    found, problems = service(
        {"namespace": "shop", "annotations": {"pointsman.dev/scheduler": "mh"}},
        {"loadBalancer": {"ingress": [{"ip": "198.51.100.1"}, {"hostname": "lb.example"}]}},
        type="LoadBalancer",
        clusterIPs=["10.96.0.1", "FD00:10:96::1"],
        externalIPs=["192.0.2.7"],
        ports=[
            {"name": "http", "port": 80, "nodePort": 30080, "targetPort": "web"},
            {"name": "dns", "port": 53, "protocol": "UDP"},
        ],
        internalTrafficPolicy="Local",
        externalTrafficPolicy="Local",
        healthCheckNodePort=30100,
        sessionAffinity="ClientIP",
        sessionAffinityConfig={"clientIP": {"timeoutSeconds": 60}},
        loadBalancerSourceRanges=[" 203.0.113.9/25 ", "2001:db8::/32"],
        loadBalancerIP="198.51.100.99",
    )
    assert not problems
    assert found == Service(
        namespace="shop",
        name="web",
        type="LoadBalancer",
        cluster_ips=("10.96.0.1", "fd00:10:96::1"),
        external_ips=("192.0.2.7",),
        load_balancer_ips=("198.51.100.1",),
        ports=(ServicePort(80, "http", "tcp", 30080), ServicePort(53, "dns", "udp")),
        internal_local=True,
        external_local=True,
        health_check_node_port=30100,
        affinity=60,
        source_ranges=("203.0.113.0/25", "2001:db8::/32"),
        scheduler="mh",
    )


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (None, None),
        ("", ()),
        (" , ", ()),
        ("sh-port", ("sh-port",)),
        ("mh-port, mh-fallback,mh-port", ("mh-fallback", "mh-port")),
    ],
)
def test_scheduler_flags(written: str | None, expected: tuple[str, ...] | None) -> None:
    found, problems = service({"annotations": {"pointsman.dev/scheduler-flags": written}}, ports=[{"port": 80}])
    assert not problems
    assert found.scheduler_flags == expected


def test_scheduler_flags_that_nobody_knows() -> None:
    found, problems = service({"annotations": {"pointsman.dev/scheduler-flags": "sh-ports,mh-port,x"}})
    assert found.scheduler_flags == ("mh-port",)
    assert problems == [
        (
            'metadata.annotations[pointsman.dev/scheduler-flags]: "sh-ports, x" is not known; write some of '
            "mh-fallback, mh-port, sh-fallback, sh-port (left out: what is not known)"
        )
    ]
    _, problems = service({"annotations": {"pointsman.dev/scheduler-flags": ",".join(map(str, range(10_000)))}})
    assert len(problems) == 1
    assert len(problems[0]) < 300


def test_a_service_with_defaults_and_nulls() -> None:
    plain, problems = service(ports=[{"port": 80}])
    nulls = dict.fromkeys(
        ("type", "clusterIPs", "externalIPs", "internalTrafficPolicy", "externalTrafficPolicy", "healthCheckNodePort",
         "sessionAffinity", "sessionAffinityConfig", "loadBalancerSourceRanges")
    )  # fmt: skip
    port = {"port": 80, "protocol": None, "name": None, "nodePort": None}
    assert not problems
    assert plain == Service("default", "web", cluster_ips=("10.96.0.1",), ports=(ServicePort(80),))
    assert service({"labels": None, "annotations": None}, **nulls, ports=[port]) == (plain, [])
    assert service(status={"loadBalancer": {"ingress": None}}, ports=[port]) == (plain, [])


@pytest.mark.parametrize(
    ("metadata", "spec", "reason"),
    [
        ({}, {"clusterIP": "None"}, "headless"),
        ({}, {"clusterIPs": ["None"]}, "headless"),
        ({}, {"type": "ExternalName"}, "ExternalName"),
        ({"labels": {"service.kubernetes.io/service-proxy-name": "other"}}, {}, "service-proxy-name=other"),
        ({"labels": {"service.kubernetes.io/headless": ""}}, {}, "service.kubernetes.io/headless"),
    ],
)
def test_services_that_a_proxy_does_not_serve(metadata: object, spec: dict[str, Any], reason: str) -> None:
    found, problems = service(metadata, **spec)
    assert reason in found.ignored
    assert (found.namespace, found.name, found.cluster_ips) == ("default", "web", ())
    assert not problems


def test_a_service_without_cluster_ip_says_so() -> None:
    found, problems = service(clusterIP="")
    assert found.ignored == "it has no cluster IP"
    assert problems == [
        ("spec.clusterIP: is missing; write an address: only an API server assigns one by itself "
        "(left out: its frontends)")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "changed", "problem"),
    [
        (
            {"clusterIPs": ["10.96.0.1", "10.96.0"]},
            {"cluster_ips": ("10.96.0.1",)},
            'spec.clusterIPs[1]: "10.96.0" is no IP address; write an IPv4 or IPv6 address (left out: this address)',
        ),
        (
            {"externalIPs": ["192.0.2.7", "127.0.0.1", "192.0.2.8"]},
            {"external_ips": ("192.0.2.7", "192.0.2.8")},
            (
                'spec.externalIPs[1]: "127.0.0.1" is a loopback address; '
                "write an address that other nodes can reach (left out: this address)"
            ),
        ),
        (
            {"ports": [{"port": 0}, {"port": 80}]},
            {"ports": (ServicePort(80),)},
            "spec.ports[0].port: 0 is no port; write a whole number from 1 to 65535 (left out: this port)",
        ),
        (
            {"ports": [{"port": 80}, {"name": "a"}]},
            {"ports": (ServicePort(80),)},
            "spec.ports[1].port: is missing; write a whole number from 1 to 65535 (left out: this port)",
        ),
        (
            {"ports": [{"port": 80, "protocol": "tcp"}]},
            {},
            'spec.ports[0].protocol: "tcp" is not known; write TCP, UDP or SCTP (left out: this port)',
        ),
        (
            {"ports": [{"port": 80, "nodePort": 70000}]},
            {"ports": (ServicePort(80),)},
            "spec.ports[0].nodePort: 70000 is no port; write a whole number from 1 to 65535 (left out: this node port)",
        ),
        (
            {"ports": [{"port": 80, "name": 'a"b'}]},
            {},
            (
                'spec.ports[0].name: "a"b" is no port name; write lower-case letters, digits and dashes '
                "(left out: this port)"
            ),
        ),
        (
            {"sessionAffinity": "clientip"},
            {},
            (
                'spec.sessionAffinity: "clientip" is not known; write None or ClientIP '
                "(left out: this field; None is assumed)"
            ),
        ),
        (
            {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86401}}},
            {"affinity": 10800},
            (
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds: 86401 is out of range; "
                "write a whole number from 1 to 86400 (left out: this field; 10800 is assumed)"
            ),
        ),
        (
            {"internalTrafficPolicy": "local"},
            {},
            (
                'spec.internalTrafficPolicy: "local" is not known; write Cluster or Local '
                "(left out: this field; Cluster is assumed)"
            ),
        ),
        (
            {"type": "Loadbalancer"},
            {},
            (
                'spec.type: "Loadbalancer" is not known; write ClusterIP, NodePort, LoadBalancer or ExternalName '
                "(left out: this field; ClusterIP is assumed)"
            ),
        ),
        (
            {"loadBalancerSourceRanges": ["203.0.113.0/24", "203.0.113.5"]},
            {"source_ranges": ("203.0.113.0/24",)},
            (
                'spec.loadBalancerSourceRanges[1]: "203.0.113.5" is no network; write 203.0.113.5/32 for one address '
                "(left out: this network)"
            ),
        ),
        (
            {"loadBalancerSourceRanges": ["everyone"]},
            {"source_ranges": ("0.0.0.0/32", "::/128")},
            (
                'spec.loadBalancerSourceRanges[0]: "everyone" is no network; write address/length, such as 10.0.0.0/8 '
                "(left out: this network)"
            ),
        ),
    ],
)
def test_what_is_wrong_costs_as_little_as_it_can(spec: dict[str, Any], changed: dict[str, Any], problem: str) -> None:
    found, problems = service(**spec)
    expected = {"cluster_ips": ("10.96.0.1",), **changed}
    assert found == Service("default", "web", **expected)
    assert problems == [problem]


def test_affinity_defaults_to_three_hours() -> None:
    assert service(sessionAffinity="ClientIP")[0].affinity == 10800
    assert service(sessionAffinity="ClientIP", sessionAffinityConfig={"clientIP": None})[0].affinity == 10800
    assert (
        service(sessionAffinity="None", sessionAffinityConfig={"clientIP": {"timeoutSeconds": 5}})[0].affinity is None
    )


def test_load_balancer_addresses_count_by_their_mode() -> None:
    ingress = [
        {"ip": "198.51.100.1", "ipMode": "VIP"},
        {"ip": "198.51.100.2", "ipMode": "Proxy"},
        {"ip": "198.51.100.3"},
        {"ip": "198.51.100.4", "ipMode": "Vip"},
        {"ip": "198.51.100"},
    ]
    found, problems = service(status={"loadBalancer": {"ingress": ingress}}, type="LoadBalancer")
    assert found.load_balancer_ips == ("198.51.100.1", "198.51.100.3")
    assert [line.split(":")[0] for line in problems] == [
        "status.loadBalancer.ingress[3].ipMode",
        "status.loadBalancer.ingress[4].ip",
    ]


def test_the_external_policy_counts_only_where_there_is_something_external() -> None:
    local = {"externalTrafficPolicy": "Local", "healthCheckNodePort": 30100}
    plain, node_port, balanced = (service(type=kind, **local)[0] for kind in ("ClusterIP", "NodePort", "LoadBalancer"))
    assert [s.external_local for s in (plain, node_port, balanced)] == [False, True, True]
    assert [s.health_check_node_port for s in (plain, node_port, balanced)] == [0, 0, 30100]
    assert service(externalIPs=["192.0.2.7"], **local)[0].external_local
    cluster = service(type="LoadBalancer", externalTrafficPolicy="Cluster", healthCheckNodePort=30100)[0]
    assert cluster.health_check_node_port == 0


def test_a_full_slice() -> None:
    found, problems = slice_(
        {
            "addresses": ["10.0.1.1", "10.0.1.2"],
            "conditions": {"ready": False, "serving": True, "terminating": True},
            "nodeName": "n1",
            "zone": "a",
            "hints": {"forZones": [{"name": "a"}, {"name": "b"}], "forNodes": [{"name": "n1"}]},
            "targetRef": {"kind": "Pod", "name": "web-1"},
        },
        metadata={
            "labels": {"kubernetes.io/service-name": "shop"},
            "annotations": {
                "pointsman.dev/weight": "256",
                "endpoints.kubernetes.io/last-change-trigger-time": "2026-01-01T00:00:00.123456789Z",
            },
        },
        ports=[{"name": "http", "port": 8080}, {"name": "all", "port": None}, {"port": 53, "protocol": "UDP"}],
    )
    endpoint = Endpoint(
        "10.0.1.1", ready=False, serving=True, terminating=True, node="n1", zone_hints=("a", "b"), node_hints=("n1",),
        pod="web-1",
    )  # fmt: skip
    ports = (EndpointPort(8080, "http"), EndpointPort(53, "", "udp"))
    assert not problems
    assert found == EndpointSlice("default", "web", "shop", 4, ports, (endpoint,), 256, 1767225600.123456)


@pytest.mark.parametrize(
    ("conditions", "ready", "serving", "terminating"),
    [
        (None, True, True, False),
        ({}, True, True, False),
        ({"ready": None, "serving": None, "terminating": None}, True, True, False),
        ({"ready": False}, False, False, False),
        ({"ready": True, "serving": False}, True, False, False),
        ({"ready": False, "serving": True, "terminating": True}, False, True, True),
    ],
)
def test_absent_conditions(conditions: object, ready: object, serving: object, terminating: object) -> None:
    (endpoint,) = slice_({"addresses": ["10.0.1.1"], "conditions": conditions})[0].endpoints
    assert (endpoint.ready, endpoint.serving, endpoint.terminating) == (ready, serving, terminating)


def test_bad_endpoints_are_left_out_one_by_one() -> None:
    found, problems = slice_(
        {"addresses": ["010.0.1.1"]},
        {"addresses": ["fd00::1"]},
        {"addresses": []},
        {"addresses": None},
        {"addresses": ["nope"]},
        {"addresses": ["169.254.169.254"]},
        {"addresses": ["10.0.1.2"], "targetRef": {"kind": "Node", "name": "n1"}},
    )
    assert found.endpoints == (Endpoint("10.0.1.1"), Endpoint("10.0.1.2"))
    assert problems == [
        ('endpoints[1].addresses[0]: "fd00::1" is no IPv4 address; write an IPv4 address, as addressType says '
        "(left out: this endpoint)"),
        "endpoints[2].addresses: is empty; write one IP address (left out: this endpoint)",
        "endpoints[3].addresses: is empty; write one IP address (left out: this endpoint)",
        'endpoints[4].addresses[0]: "nope" is no IP address; write an IPv4 or IPv6 address (left out: this endpoint)',
        ('endpoints[5].addresses[0]: "169.254.169.254" is a link-local address; '
        "write an address that other nodes can reach (left out: this endpoint)"),
    ]  # fmt: skip


@pytest.mark.parametrize("weight", ["257", "-1", "1.5", "", "many", "٣", "1e2", " 1"])
def test_a_bad_weight_is_named_and_left_out(weight: str) -> None:
    found, problems = slice_(metadata={"annotations": {"pointsman.dev/weight": weight}})
    assert found.weight is None
    assert problems == [
        (
            f'metadata.annotations[pointsman.dev/weight]: "{weight}" is no weight; '
            'write a whole number from "0" to "256" (left out: this annotation)'
        )
    ]


def test_a_pods_label_is_its_weight_before_the_annotation() -> None:
    weights = {"labels": {"pointsman.dev/weight": "0"}, "annotations": {"pointsman.dev/weight": "5"}}
    assert read("Pod", weights).objects == (Pod("default", "web", 0),)
    found = read("Pod", {**weights, "labels": {"pointsman.dev/weight": "none"}})
    assert found.objects == (Pod("default", "web", None),)
    assert 'metadata.labels[pointsman.dev/weight]: "none" is no weight' in str(found.problems[0])


@pytest.mark.parametrize(("weight", "expected"), [("0", 0), ("1", 1), ("256", 256), ("007", 7)])
def test_good_weights(weight: str, expected: int) -> None:
    annotations = {"annotations": {"pointsman.dev/weight": weight}}
    assert slice_(metadata=annotations)[0].weight == expected
    assert read("Pod", annotations).objects == (Pod("default", "web", expected),)


@pytest.mark.parametrize("time", ["yesterday", "2026-01-01T00:00:00"])
def test_a_bad_trigger_time_is_no_harm(time: str) -> None:
    found, problems = slice_(metadata={"annotations": {"endpoints.kubernetes.io/last-change-trigger-time": time}})
    assert found.trigger_time is None
    assert "is no time" in problems[0]


def test_slices_that_a_proxy_does_not_use() -> None:
    fqdn, problems = slice_({"addresses": ["db.example"]}, addressType="FQDN")
    assert (fqdn.family, fqdn.endpoints, problems) == (0, (), [])
    assert "FQDN" in fqdn.ignored
    labels = {"kubernetes.io/service-name": "shop", "service.kubernetes.io/headless": ""}
    headless = slice_({"addresses": ["10.0.0.1"]}, metadata={"labels": labels})[0]
    assert (headless.service, headless.endpoints) == ("shop", ())
    assert "headless" in headless.ignored
    other = slice_(metadata={"labels": {"service.kubernetes.io/service-proxy-name": "x"}})[0]
    assert "another Service proxy" in other.ignored


def test_a_slice_needs_a_known_address_type() -> None:
    for address_type, message in ((None, "is missing"), ("ipv4", '"ipv4" is not known')):
        parsed = read("EndpointSlice", addressType=address_type, endpoints=[])
        assert not parsed.objects
        assert [str(key) for key in parsed.rejected] == ["EndpointSlice default/web"]
        assert str(parsed.problems[0]).startswith(f"f: EndpointSlice default/web: addressType: {message}; write IPv4")


def test_equal_strings_are_kept_once() -> None:
    first, second = (slice_({"addresses": ["10.0.0.1"], "nodeName": "node-7"})[0] for _ in range(2))
    assert first.endpoints[0].node is second.endpoints[0].node
    zones = {"forZones": [{"name": "eu-1"}]}
    found = slice_({"addresses": ["10.0.0.1"], "hints": zones}, {"addresses": ["10.0.0.2"], "hints": zones})[0]
    assert found.endpoints[0].zone_hints is found.endpoints[1].zone_hints


def test_endpoints_become_slices_one_for_each_subset_and_family() -> None:
    found, problems = endpoints(
        {"annotations": {"pointsman.dev/weight": "3"}},
        {
            "addresses": [
                {"ip": "10.0.1.1", "nodeName": "n1", "targetRef": {"kind": "Pod", "name": "p"}},
                {"ip": "FD00::1"},
            ],
            "notReadyAddresses": [{"ip": "10.0.1.2"}],
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        },
        {"addresses": [{"ip": "10.0.2.1"}, {"ip": "127.0.0.1"}], "ports": [{"port": 9}, {"name": "none"}]},
        {"addresses": None},
    )
    http, other = (EndpointPort(8080, "http"),), (EndpointPort(9),)
    ready = Endpoint("10.0.1.1", node="n1", pod="p")
    unready = Endpoint("10.0.1.2", ready=False, serving=False)
    assert found.slices == (
        EndpointSlice("default", "web subsets[0] IPv4", "web", 4, http, (ready, unready), 3),
        EndpointSlice("default", "web subsets[0] IPv6", "web", 6, http, (Endpoint("fd00::1"),), 3),
        EndpointSlice("default", "web subsets[1] IPv4", "web", 4, other, (Endpoint("10.0.2.1"),), 3),
    )
    assert [line.split(" ", 1)[0] for line in problems] == ["subsets[1].ports[1].port:", "subsets[1].addresses[1].ip:"]


@pytest.mark.parametrize(
    ("metadata", "mirrored"),
    [
        ({"labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}}, False),
        ({"labels": {"endpointslice.kubernetes.io/skip-mirror": "false"}}, True),
        ({"annotations": {"control-plane.alpha.kubernetes.io/leader": "{}"}}, False),
        ({"labels": {"service.kubernetes.io/headless": ""}}, False),
        ({"labels": {"service.kubernetes.io/service-proxy-name": "x"}}, False),
        ({}, True),
    ],
)
def test_endpoints_that_nobody_mirrors(metadata: object, mirrored: object) -> None:
    subset = {"addresses": [{"ip": "10.0.1.1"}], "ports": [{"port": 80}]}
    assert bool(endpoints(metadata, subset)[0].slices) is mirrored


def test_all_objects_of_the_vectors_are_good() -> None:
    suites = json.loads((VECTORS / "packet_flows.json").read_bytes())["suites"]
    example = json.loads((VECTORS / "founding_example.json").read_bytes())
    count = 0
    for suite in (*suites, example):
        items = [item for part in suite.get("objects", {}).values() for item in part]
        parsed = parse(json.dumps({"kind": "List", "items": items}).encode())
        assert not parsed.problems
        assert len(parsed.objects) == len(items)
        count += len(items)
    assert count > 10
