"""From bytes to objects: forms, lists, and what becomes of bad ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pointsman.api.proxyconfig import ProxyConfig
from pointsman.model.objects import Namespace, Node, ObjectKey, Pod, Service, ServiceCIDR
from pointsman.model.parse import Parsed, key_of, parse


def service(name: str = "web", **spec: object) -> dict[str, Any]:
    full = {"clusterIP": "10.96.0.1", "ports": [{"port": 80}], **spec}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": full}


def listed(*items: object, kind: str = "List") -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": kind, "items": [*items]}


def as_json(document: object) -> bytes:
    return json.dumps(document).encode()


def as_yaml(*documents: object) -> bytes:
    return yaml.dump_all(documents, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), sort_keys=False).encode()


def names(parsed: Parsed) -> list[str]:
    return [str(key_of(obj)) for obj in parsed.objects]


def lines(parsed: Parsed) -> list[str]:
    return [str(problem) for problem in parsed.problems]


Form = Callable[[object], bytes]
FORMS = pytest.mark.parametrize("form", [as_json, as_yaml])


@FORMS
def test_one_object(form: Form) -> None:
    parsed = parse(form(service()), "web.yaml")
    assert names(parsed) == ["Service default/web"]
    assert not parsed.problems
    assert not parsed.broken


@FORMS
def test_lists_of_all_sorts(form: Form) -> None:
    without_kind = {key: value for key, value in service("c").items() if key in ("metadata", "spec")}
    assert names(parse(form(listed(service("a"), service("b"))))) == ["Service default/a", "Service default/b"]
    assert names(parse(form(listed(without_kind, kind="ServiceList")))) == ["Service default/c"]
    assert names(parse(form(listed(listed(service("d")))))) == ["Service default/d"]
    assert parse(form(listed())) == Parsed()
    assert parse(form({"kind": "List", "items": None})) == Parsed()


def test_many_documents_and_empty_ones() -> None:
    data = b"# a comment\n---\n" + as_yaml(service("a"), None, listed(service("b")), service("c")) + b"---\n"
    assert names(parse(data)) == ["Service default/a", "Service default/b", "Service default/c"]


def test_json_documents_apart_by_dashes_and_yaml_in_flow_style() -> None:
    apart = as_json(service("a")) + b"\n---\n" + as_json(service("b"))
    assert names(parse(apart)) == ["Service default/a", "Service default/b"]
    flow = b"{apiVersion: v1, kind: Namespace, metadata: {name: a}}"
    assert names(parse(flow)) == ["Namespace a"]


@pytest.mark.parametrize("data", [b"", b"\n", b"# nothing\n", b"---\n---\n", b"null", b"\xef\xbb\xbf"])
def test_nothing_is_nothing(data: bytes) -> None:
    assert parse(data) == Parsed()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@FORMS
def test_byte_order_marks(form: Form, encoding: str) -> None:
    assert names(parse(form(service()).decode().encode(encoding))) == ["Service default/web"]


@FORMS
def test_kinds_that_a_proxy_has_no_use_for_are_passed_over(form: Form) -> None:
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "items": {"odd": 1}}
    knative = {"apiVersion": "serving.knative.dev/v1", "kind": "Service", "metadata": {"name": "k"}, "spec": []}
    assert parse(form(deployment)) == Parsed()
    assert parse(form(listed(deployment, knative, {**knative, "spec": {}}))) == Parsed()
    assert parse(form(listed(deployment, kind="DeploymentList"))) == Parsed()


@FORMS
def test_a_bad_object_costs_itself_alone(form: Form) -> None:
    parsed = parse(form(listed(service("a"), service("b", ports=[{"port": "80"}]), service("c"))), "web.json")
    assert names(parsed) == ["Service default/a", "Service default/c"]
    assert lines(parsed) == [
        (
            'web.json: Service default/b: spec.ports[0].port: "80" is not a whole number; '
            "write a whole number (left out: the object)"
        )
    ]
    assert parsed.rejected == (ObjectKey("Service", "default", "b"),)
    assert not parsed.broken


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ({"ports": {"port": 80}}, 'spec.ports: {"port": 80} is not a list; write a list'),
        ({"ports": [80]}, "spec.ports[0]: 80 is not a mapping; write a mapping"),
        ({"clusterIP": 10.96}, "spec.clusterIP: 10.96 is not text (in quotes); write text (in quotes)"),
        ({"clusterIPs": ["10.96.0.1", 7]}, "spec.clusterIPs[1]: 7 is not text (in quotes); write text (in quotes)"),
        ({"ports": [{"port": True}]}, "spec.ports[0].port: true is not a whole number; write a whole number"),
    ],
)
@FORMS
def test_wrong_types_are_named(form: Form, spec: dict[str, Any], line: str) -> None:
    parsed = parse(form(service(**spec)))
    assert lines(parsed) == [f"Service default/web: {line} (left out: the object)"]


@FORMS
def test_wrong_labels_are_named(form: Form) -> None:
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "labels": {"a": "b", "zone": 3}}}
    assert lines(parse(form(node)))[0].startswith("Node n: metadata.labels[zone]: 3 is not text")


@FORMS
@pytest.mark.parametrize(
    ("document", "line"),
    [
        ({"metadata": {"name": "a"}}, "document 1: has no kind; write apiVersion and kind (left out: the object)"),
        ([service()], "document 1: is no Kubernetes object; write an object with apiVersion, kind and metadata"),
        ({"kind": "List", "items": 7}, "document 1: has items that are no list;"),
        ("text", "document 1: is no Kubernetes object;"),
        (listed(service("a"), None), "items[1]: is no Kubernetes object;"),
        (listed(7, kind="ServiceList"), "Service (items[0]): 7 is not a mapping; write a mapping"),
        ({"kind": "Service", "spec": {}}, "Service (document 1): metadata.name: is missing;"),
        ({"kind": "Service", "metadata": None}, "Service (document 1): metadata.name: is missing;"),
        ({"kind": "Service", "metadata": []}, "Service (document 1): metadata: [] is not a mapping;"),
        (service("Web_1"), 'Service default/Web_1: metadata.name: "Web_1" is no object name; write lower-case'),
        ({**service(), "metadata": {"name": "a", "namespace": 'x"'}}, 'Service x"/a: metadata.namespace: "x\\"" is no'),
        ({**service(), "apiVersion": "v2"}, 'Service default/web: apiVersion: "v2" is not supported; write v1 (left'),
    ],
)
def test_what_is_no_object(form: Form, document: object, line: str) -> None:
    parsed = parse(form(document))
    assert len(parsed.problems) == 1
    assert lines(parsed)[0].startswith(line)
    assert len(parsed.objects) == ("items" in str(document) and "'a'" in str(document))


def test_an_old_version_of_a_slice_is_named() -> None:
    slice_ = {"apiVersion": "discovery.k8s.io/v1beta1", "kind": "EndpointSlice", "metadata": {"name": "a"}}
    (line,) = lines(parse(as_json(slice_)))
    assert 'apiVersion: "discovery.k8s.io/v1beta1" is not supported; write discovery.k8s.io/v1' in line


def test_of_two_with_one_name_the_later_one_counts() -> None:
    parsed = parse(as_yaml(service("a"), service("b"), service("a", clusterIP="10.96.0.9")), "f")
    assert names(parsed) == ["Service default/b", "Service default/a"]
    assert isinstance(parsed.objects[1], Service)
    assert parsed.objects[1].cluster_ips == ("10.96.0.9",)
    assert lines(parsed) == [
        "f: Service default/a: metadata.name: comes twice in this file; keep one of the two (left out: the earlier one)"
    ]


def test_the_namespace_is_default_where_there_is_none() -> None:
    parsed = parse(as_json({**service(), "metadata": {"name": "a", "namespace": "shop"}}))
    assert names(parsed) == ["Service shop/a"]
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "namespace": "ignored"}}
    assert names(parse(as_json(node))) == ["Node n"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (as_json(service())[:-9], "is not valid JSON: at the end: Input data was truncated; correct the file"),
        (b'{"kind": "Service",\n "metadata": [}', "is not valid JSON: line 2, column 15: "),
        (b"kind: Service\nspec: [1\n", "is not valid YAML: line 3, column 1: "),
        (b"kind: Service\n\tspec: 1", "is not valid YAML: line 2, column 1: "),
        (b"kind: \xff\xfe", "is not UTF-8 text (byte 7); save the file as UTF-8"),
        (as_json({**service("a"), "x": 1}) + b"\n---\n{", "is not valid YAML: "),
        (b"a: !!python/object:os.system {}", "is not valid YAML: "),
        (b"[" * 3000, "is nested too deep; write it flat"),
        (b'{"kind": "List", "items": [' * 400 + b"]}" * 400, "is nested too deep"),
        (b"\xff\xfe\x00", "is not UTF-8 text"),
    ],
)
def test_a_broken_file_says_where_and_gives_nothing(data: bytes, message: str) -> None:
    parsed = parse(data, "web.yaml")
    assert parsed.broken
    assert not parsed.objects
    (line,) = lines(parsed)
    assert line.startswith(f"web.yaml: {message}")
    assert line.endswith("(left out: the file's changes)")
    assert "\n" not in line


def test_bytes_that_are_no_utf8_inside_json_text() -> None:
    parsed = parse(as_json(listed(service("a"), service("b"))).replace(b'"b"', b'"\xff"'))
    assert names(parsed) == ["Service default/a"]
    assert len(parsed.problems) == 1


def test_yaml_is_read_as_kubernetes_reads_it() -> None:
    data = b"""
apiVersion: v1
kind: Node
metadata:
  name: n
  creationTimestamp: 2026-01-01T00:00:00Z
  deletionTimestamp: 2026-01-01T00:00:00Z
  labels: {date: 2026-01-01, address: 2001:1:2:3:4:5:6:7}
status:
  addresses:
  - {type: InternalIP, address: 2001:10:2:3:4:5:6:7}
"""
    parsed = parse(data)
    assert not parsed.problems
    (node,) = parsed.objects
    assert isinstance(node, Node)
    assert node.leaving
    assert node.addresses == ("2001:10:2:3:4:5:6:7",)
    assert dict(node.labels) == {"date": "2026-01-01", "address": "2001:1:2:3:4:5:6:7"}


def test_anchors_are_written_out_and_bombs_are_not() -> None:
    anchors = b"kind: List\nitems:\n- &a {kind: Namespace, metadata: {name: a}}\n- {<<: *a, metadata: {name: b}}\n"
    assert names(parse(anchors)) == ["Namespace a", "Namespace b"]
    bomb = ["a0: &a0 [x,x,x,x,x,x,x,x,x]"]
    bomb += [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    merged = ["a0: &a0 {x: 1, y: 2}"]
    merged += [f"a{i}: &a{i} {{<<: [{','.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 30)]
    for lines_, word in ((bomb, "aliases"), (merged, "<<")):
        parsed = parse("\n".join(lines_).encode())
        assert parsed.broken
        assert word in lines(parsed)[0]
    assert parse(b"kind: &a [*a]").broken


@FORMS
def test_the_other_kinds(form: Form) -> None:
    parsed = parse(
        form(
            listed(
                {
                    "apiVersion": "v1",
                    "kind": "Node",
                    "metadata": {"name": "n", "labels": {"b": "2", "a": "1"}},
                    "spec": {"podCIDR": "10.0.1.0/24", "taints": [{"key": "other"}]},
                    "status": {
                        "addresses": [
                            {"type": "Hostname", "address": "n"},
                            {"type": "ExternalIP", "address": "203.0.113.1"},
                            {"type": "InternalIP", "address": "192.168.0.2"},
                            {"type": "InternalIP", "address": "FD00::2"},
                        ]
                    },
                },
                {
                    "apiVersion": "networking.k8s.io/v1",
                    "kind": "ServiceCIDR",
                    "metadata": {"name": "kubernetes"},
                    "spec": {"cidrs": ["10.96.0.0/12", "fd00:10:96::/112"]},
                },
                {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": {"team": "a"}}},
                {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {"name": "p", "annotations": {"pointsman.dev/weight": "0"}},
                },
                {
                    "apiVersion": "pointsman.dev/v1alpha1",
                    "kind": "ProxyConfig",
                    "metadata": {"name": "fast"},
                    "spec": {"minSyncPeriod": "10ms", "scheduler": None},
                },
            )
        )
    )
    assert not parsed.problems
    node, cidr, namespace, pod, config = parsed.objects
    addresses, labels = ("192.168.0.2", "fd00::2"), (("a", "1"), ("b", "2"))
    assert node == Node("n", labels, addresses, ("10.0.1.0/24",), leaving=False)
    assert cidr == ServiceCIDR("kubernetes", ("10.96.0.0/12", "fd00:10:96::/112"))
    assert namespace == Namespace("shop", (("kubernetes.io/metadata.name", "shop"), ("team", "a")))
    assert pod == Pod("default", "p", 0)
    assert isinstance(config, ProxyConfig)
    assert (config.name, config.spec.min_sync_period) == ("fast", 0.01)
    assert [key_of(obj).kind for obj in parsed.objects] == ["Node", "ServiceCIDR", "Namespace", "Pod", "ProxyConfig"]


def test_nodes_that_leave_and_nodes_without_internal_addresses() -> None:
    node: dict[str, Any] = {
        "kind": "Node",
        "metadata": {"name": "n"},
        "spec": {"taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]},
        "status": {"addresses": [{"type": "ExternalIP", "address": "203.0.113.1"}]},
    }
    assert parse(as_json(node)).objects == (Node("n", addresses=("203.0.113.1",), leaving=True),)
    assert parse(as_json({"kind": "Node", "metadata": {"name": "n"}})).objects == (Node("n"),)


@FORMS
def test_every_bad_field_of_a_proxy_config_is_a_problem(form: Form) -> None:
    config = {
        "apiVersion": "pointsman.dev/v1alpha1",
        "kind": "ProxyConfig",
        "metadata": {"name": "c"},
        "spec": {"mode": "ipsv", "podCIDRs": ["10.0.0.0/8", "10.0.0.0/40"]},
    }
    parsed = parse(form(config))
    assert lines(parsed) == [
        (
            "ProxyConfig c: spec.mode: 'ipsv' is not allowed; allowed: nftables, ipvs, iptables, userspace, "
            "or one of your own as example.com/name (left out: the object)"
        ),
        (
            "ProxyConfig c: spec.podCIDRs[1]: '10.0.0.0/40' is not allowed; "
            'allowed: a network as "10.0.0.0/8" or "fd00::/64" (left out: the object)'
        ),
    ]
    assert parsed.rejected == (ObjectKey("ProxyConfig", "", "c"),)


@FORMS
def test_a_misspelt_field_of_a_proxy_config_is_told_and_the_rest_is_read(form: Form) -> None:
    spec = {
        "mode": "ipvs",
        "shceduler": "lc",
        "ipvs": {"strictARp": True, "udpTimeout": "5s"},
        "nodePortRanges": [{"range": "30000-30100", "namespaceSelector": {"matchLabel": {"a": "b"}}}],
    }
    document = {"apiVersion": "pointsman.dev/v1alpha1", "kind": "ProxyConfig", "metadata": {"name": "c"}, "spec": spec}
    parsed = parse(form(document))
    told = "ProxyConfig c: spec.{}: is no field of a ProxyConfig; write {} (left out: this field)"
    assert lines(parsed) == [
        told.format("shceduler", "scheduler"),
        told.format("ipvs.strictARp", "strictARP"),
        told.format("nodePortRanges[0].namespaceSelector.matchLabel", "matchLabels"),
    ]
    (config,) = parsed.objects
    assert isinstance(config, ProxyConfig)
    assert (config.spec.mode, config.spec.ipvs.udp_timeout) == ("ipvs", 5.0)


FIELDS = st.sampled_from(
    ["metadata", "name", "labels", "annotations", "spec", "status", "ports", "port", "clusterIP", "clusterIPs", "type",
     "endpoints", "addresses", "addressType", "conditions", "subsets", "ip", "loadBalancer", "ingress", "items",
     "sessionAffinityConfig", "clientIP", "timeoutSeconds", "pointsman.dev/weight", "mode", "syncPeriod", "taints"]
)  # fmt: skip
LEAVES = st.sampled_from([None, True, 0, 80, -1, 2**70, 1.5, "", "web", "10.0.0.1", "fd00::1", "IPv4", "None", "30s"])
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS, inner, max_size=4))
KINDS = st.sampled_from(
    ["Service", "EndpointSlice", "Endpoints", "Pod", "Node", "ServiceCIDR", "Namespace", "ProxyConfig", "List"]
)
ODD = st.builds(lambda kind, rest: {**rest, "kind": kind}, KINDS, st.dictionaries(FIELDS, VALUES, max_size=5))


@settings(max_examples=60, deadline=None)  # machines that run the tests are slow at times
@given(st.lists(ODD | VALUES, max_size=4))
def test_json_and_yaml_say_the_same_whatever_is_in_them(items: list[object]) -> None:
    whole = {"kind": "List", "items": [*items, service("good")]}
    from_json, from_yaml = parse(as_json(whole)), parse(as_yaml(whole))
    assert from_json == from_yaml
    assert "Service default/good" in names(from_json)


@settings(deadline=None)
@given(st.binary(max_size=200) | st.text(alphabet="{}[]:,-&*!|>'\"# \n\tkind", max_size=60).map(str.encode))
def test_no_bytes_make_it_fail(data: bytes) -> None:
    parsed = parse(data)
    assert not (parsed.broken and parsed.objects)
    assert "\n" not in "".join(lines(parsed))


def test_an_annotation_without_quotes_is_told_with_its_value() -> None:
    pod = b"{apiVersion: v1, kind: Pod, metadata: {name: p, annotations: {pointsman.dev/weight: 3}}}"
    (problem,) = parse(pod, "").problems
    assert problem.field == "metadata.annotations[pointsman.dev/weight]"
    assert (problem.message, problem.remedy) == ("3 is not text (in quotes)", 'write "3"')
