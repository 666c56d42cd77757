"""The rules for Services, from the bytes of a review to the words of its answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pointsman.api.values import PortRange
from pointsman.controller.admission.review import NotAReviewError
from support.pictures import DEFAULT_RANGE, HandPicture, ask, config, port, review, service

RANGE_WORDS = "provided port is not in the valid range. The range of valid ports is 30000-32767"
SCHEDULER = "metadata.annotations[pointsman.dev/scheduler]"
TIMEOUT = "spec.sessionAffinityConfig.clientIP.timeoutSeconds"


def test_the_words_are_those_of_the_api_server() -> None:
    answer = ask(review(service(port(8080, 58080))))
    assert not answer.allowed
    assert answer.causes == [f"spec.ports[0].nodePort: Invalid value: 58080: {RANGE_WORDS}"]
    assert answer.status == {
        "status": "Failure",
        "code": 422,
        "reason": "Invalid",
        "message": f'Service "web" is invalid: spec.ports[0].nodePort: Invalid value: 58080: {RANGE_WORDS}',
        "details": {
            "name": "web",
            "kind": "Service",
            "causes": [
                {
                    "field": "spec.ports[0].nodePort",
                    "message": f"Invalid value: 58080: {RANGE_WORDS}",
                    "reason": "FieldValueInvalid",
                }
            ],
        },
    }


def test_everything_that_is_wrong_is_in_one_answer() -> None:
    answer = ask(
        review(
            service(
                port(80, 80),
                port(81, 30001),
                port(82, 40000, "UDP"),
                kind="LoadBalancer",
                scheduler="quickest",
                externalTrafficPolicy="Local",
                healthCheckNodePort=1234,
                sessionAffinity="ClientIP",
                sessionAffinityConfig={"clientIP": {"timeoutSeconds": 86401}},
            )
        )
    )
    assert answer.causes == [
        f"spec.ports[0].nodePort: Invalid value: 80: {RANGE_WORDS}",
        f"spec.ports[2].nodePort: Invalid value: 40000: {RANGE_WORDS}",
        f"spec.healthCheckNodePort: Invalid value: 1234: {RANGE_WORDS}",
        f"{TIMEOUT}: Invalid value: 86401: must be greater than 0 and less than or equal to 86400",
        f'{SCHEDULER}: Unsupported value: "quickest": supported values: "random", "rr", "wrr", "sh", "dh", "mh"',
    ]
    assert answer.status["message"] == f'Service "web" is invalid: [{", ".join(answer.causes)}]'
    assert answer.reasons == ["FieldValueInvalid"] * 4 + ["FieldValueNotSupported"]


@pytest.mark.parametrize(
    "written",
    [
        service(port(80, 30000), port(81, 32767)),
        service(port(80)),
        service(port(80, 0)),
        service(port(80, 58080), kind="ClusterIP"),
        service(port(80, 58080), clusterIP="None"),
        service(kind="ExternalName", externalName="example.org", scheduler="quickest"),
        service(port(80, 58080), metadata={"labels": {"service.kubernetes.io/service-proxy-name": "other"}}),
        service(port(80, 58080), metadata={"labels": {"service.kubernetes.io/headless": ""}}),
        service(port(80, 58080), metadata={"deletionTimestamp": "2026-01-31T12:00:00Z"}),
        service(port(80, 30000), kind="LoadBalancer", healthCheckNodePort=1),  # without externalTrafficPolicy: Local
        {"metadata": {"name": "web"}},
        {"metadata": None, "spec": None},
        {},
    ],
)
def test_what_nothing_is_wrong_with_is_allowed(written: dict[str, Any]) -> None:
    answer = ask(review(written))
    assert (answer.allowed, answer.warnings, answer.status) == (True, [], {})
    assert answer.document["apiVersion"] == "admission.k8s.io/v1"
    assert answer.document["kind"] == "AdmissionReview"
    assert answer.uid == "7f1c"


@pytest.mark.parametrize("operation", ["DELETE", "CONNECT"])
def test_other_operations_are_not_judged(operation: str) -> None:
    assert ask(review(None, service(port(80, 58080)), operation=operation)).allowed


def test_a_subresource_is_not_judged() -> None:
    assert ask(review(service(port(80, 1)), service(), subResource="status")).allowed


class TestUpdates:
    OLD = service(port(80, 58080), port(81, 40000, "UDP"), scheduler="quickest")

    def test_what_is_left_alone_is_a_warning(self) -> None:
        answer = ask(review(self.OLD | {"status": {}}, self.OLD))
        assert answer.allowed
        assert answer.warnings == [
            f"spec.ports[0].nodePort: Invalid value: 58080: {RANGE_WORDS}; it was so before, and this update leaves it",
            f"spec.ports[1].nodePort: Invalid value: 40000: {RANGE_WORDS}; it was so before, and this update leaves it",
            (
                f'{SCHEDULER}: Unsupported value: "quickest": supported values: "random", "rr", "wrr", "sh", "dh", '
                '"mh"; it was so before, and this update leaves it'
            ),
        ]

    def test_a_port_that_moves_to_another_place_is_left_alone(self) -> None:
        assert ask(review(service(port(81, 40000, "UDP"), port(80, 58080)), self.OLD)).allowed

    def test_a_new_bad_value_is_refused_beside_an_old_one(self) -> None:
        answer = ask(review(service(port(80, 58080), port(81, 40001, "UDP"), scheduler="fastest"), self.OLD))
        assert [cause.split(":")[0] for cause in answer.causes] == ["spec.ports[1].nodePort", SCHEDULER]
        assert len(answer.warnings) == 1

    def test_a_port_of_what_was_not_ours_is_new(self) -> None:
        foreign = service(port(80, 58080), metadata={"labels": {"service.kubernetes.io/service-proxy-name": "x"}})
        assert not ask(review(service(port(80, 58080)), foreign)).allowed

    def test_a_node_port_that_comes_with_the_type_is_new(self) -> None:
        assert not ask(review(service(port(80, 58080)), service(port(80), kind="ClusterIP"))).allowed

    def test_an_old_timeout_stays(self) -> None:
        old = service(sessionAffinity="ClientIP", sessionAffinityConfig={"clientIP": {"timeoutSeconds": 0}})
        assert ask(review(old, old)).allowed
        assert not ask(review(old, service())).allowed


class TestRanges:
    BOTH = HandPicture(ranges=(("default", DEFAULT_RANGE), ("edge", PortRange(31000, 31099))))

    def test_the_one_that_is_violated_is_named_where_they_differ(self) -> None:
        answer = ask(review(service(port(80, 30500))), self.BOTH)
        assert answer.causes == [
            (
                "spec.ports[0].nodePort: Invalid value: 30500: provided port is not in the valid range. "
                "The range of valid ports is 31000-31099 (ProxyConfig edge)"
            )
        ]

    def test_each_violated_one_is_a_cause(self) -> None:
        assert [cause.rpartition(". ")[2] for cause in ask(review(service(port(80, 80))), self.BOTH).causes] == [
            "The range of valid ports is 30000-32767 (ProxyConfig default)",
            "The range of valid ports is 31000-31099 (ProxyConfig edge)",
        ]

    def test_equal_ones_are_one(self) -> None:
        picture = HandPicture(ranges=(("a", DEFAULT_RANGE), ("b", DEFAULT_RANGE)))
        assert ask(review(service(port(80, 80))), picture).causes == [
            f"spec.ports[0].nodePort: Invalid value: 80: {RANGE_WORDS}"
        ]


class TestUsers:
    TAKEN = HandPicture(users={(30080, "tcp"): ("shop/api",), (30081, "udp"): ("shop/web",)})

    def test_another_services_port_is_refused_with_its_name(self) -> None:
        assert ask(review(service(port(80, 30080))), self.TAKEN).causes == [
            "spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated, to Service shop/api"
        ]

    def test_another_protocol_is_another_port(self) -> None:
        assert ask(review(service(port(80, 30080, "UDP"))), self.TAKEN).allowed

    def test_ones_own_is_no_conflict(self) -> None:
        assert ask(review(service(port(80, 30081, "UDP"))), self.TAKEN).allowed

    def test_an_old_conflict_is_a_warning(self) -> None:
        old = service(port(80, 30080))
        answer = ask(review(old, old), self.TAKEN)
        assert answer.allowed
        assert "already allocated" in answer.warnings[0]

    def test_the_health_check_port_is_a_tcp_port(self) -> None:
        local = {"kind": "LoadBalancer", "externalTrafficPolicy": "Local"}
        answer = ask(review(service(port(80, 30001), **local, healthCheckNodePort=30080)), self.TAKEN)
        assert answer.causes[0].startswith("spec.healthCheckNodePort: Invalid value: 30080: provided port is already")

    def test_twice_in_one_service(self) -> None:
        assert ask(review(service(port(80, 30001), port(81, 30001)))).causes == [
            "spec.ports[1].nodePort: Duplicate value: 30001"
        ]
        assert ask(review(service(port(53, 30001), port(53, 30001, "UDP")))).allowed
        local = {"kind": "LoadBalancer", "externalTrafficPolicy": "Local"}
        assert ask(review(service(port(80, 30001), **local, healthCheckNodePort=30001))).causes == [
            "spec.healthCheckNodePort: Duplicate value: 30001"
        ]


class TestSchedulers:
    IPVS = HandPicture(configs=(config("ipvs", mode="ipvs", fallbackModes=["nftables"]),))
    MIXED = HandPicture(configs=(config("new"), config("old", mode="ipvs")))

    def test_those_of_a_mode_and_its_fallbacks_are_supported(self) -> None:
        assert ask(review(service(scheduler="lc")), self.IPVS).warnings == []
        answer = ask(review(service(scheduler="x")), self.IPVS)
        assert answer.causes[0].endswith('"fo", "ovf", "random"')

    def test_one_of_a_fallback_alone_is_told(self) -> None:
        answer = ask(review(service(scheduler="random")), self.IPVS)
        assert answer.allowed
        assert answer.warnings == [
            (
                f'{SCHEDULER}: "random" is no scheduler of mode ipvs; the nodes of ProxyConfig ipvs use rr '
                "while they are in that mode"
            )
        ]

    def test_one_that_some_nodes_have_is_told(self) -> None:
        answer = ask(review(service(scheduler="lc")), self.MIXED)
        assert answer.allowed
        assert "ProxyConfig new" in answer.warnings[0]

    def test_one_of_a_mode_that_no_node_has_is_refused(self) -> None:
        assert not ask(review(service(scheduler="lc")), HandPicture(configs=(config("new"),))).allowed

    @pytest.mark.parametrize(
        ("mode", "name"),
        [("nftables", "example.com/own"), ("example.com/toy", "quickest"), ("example.com/toy", "random")],
    )
    def test_one_that_only_nodes_know_is_told(self, mode: str, name: str) -> None:
        answer = ask(review(service(scheduler=name)), HandPicture(configs=(config("own", mode=mode),)))
        assert answer.allowed
        assert answer.warnings == [
            (
                f'{SCHEDULER}: "{name}" is none of Pointsman\'s own: whether it is there in mode {mode}, the nodes of '
                "ProxyConfig own know; where it is not, they use another one and say so"
            )
        ]

    def test_one_of_somebodys_own_in_a_mode_that_takes_none_is_told(self) -> None:
        answer = ask(review(service(scheduler="example.com/own")), self.IPVS)
        assert answer.allowed
        assert "is no scheduler of mode ipvs; the nodes of ProxyConfig ipvs use rr" in answer.warnings[0]

    @pytest.mark.parametrize("name", ["example/own", "example.com/", "/own", "example.com/own/more", "EXAMPLE.com/own"])
    def test_one_that_has_no_domain_before_it_is_refused(self, name: str) -> None:
        assert not ask(review(service(scheduler=name))).allowed

    def test_an_empty_one_is_none(self) -> None:
        assert ask(review(service(scheduler=""))).allowed

    def test_a_long_one_is_cut(self) -> None:
        assert len(ask(review(service(scheduler="x" * 100_000))).causes[0]) < 500


class TestSchedulerFlags:
    FLAGS = "metadata.annotations[pointsman.dev/scheduler-flags]"

    def test_unknown_ones_are_refused_with_those_that_there_are(self) -> None:
        answer = ask(review(service(scheduler="mh", flags="mh-port, mh-ports")), TestSchedulers.IPVS)
        supported = '"mh-fallback", "mh-port", "sh-fallback", "sh-port"'
        assert answer.causes == [f'{self.FLAGS}: Unsupported value: "mh-ports": supported values: {supported}']

    def test_an_old_one_is_told(self) -> None:
        old = service(flags="x")
        answer = ask(review(old, old))
        assert answer.allowed
        assert "it was so before" in answer.warnings[0]
        assert not ask(review(service(flags="x,y"), old)).allowed

    def test_one_for_another_scheduler_is_told(self) -> None:
        answer = ask(review(service(scheduler="sh", flags="sh-port,mh-port")))
        assert answer.allowed
        assert answer.warnings == [f'{self.FLAGS}: mh-port: without effect on scheduler "sh"']
        assert ask(review(service(flags="sh-port,mh-port"))).warnings == [], "whose scheduler is not written there"

    @pytest.mark.parametrize("flags", ["", " , ", "sh-port", " sh-fallback ,sh-port,"])
    def test_good_ones(self, flags: str) -> None:
        answer = ask(review(service(scheduler="sh", flags=flags)))
        assert (answer.allowed, answer.warnings) == (True, [])

    def test_many_are_not_all_named(self) -> None:
        assert len(ask(review(service(flags=",".join(map(str, range(1000)))))).causes) == 8


class TestPortsThatNobodyWrote:
    """The API server fills in node ports before it asks webhooks; managedFields tell which were written."""

    @staticmethod
    def managed(*, node_port: bool = False, health: bool = False) -> dict[str, object]:
        own = {".": {}, "f:port": {}} | ({"f:nodePort": {}} if node_port else {})
        spec = {"f:ports": {".": {}, 'k:{"port":80,"protocol":"TCP"}': own}}
        fields = {"f:spec": spec | ({"f:healthCheckNodePort": {}} if health else {})}
        return {"managedFields": [{"manager": "kubectl", "fieldsV1": fields}]}

    def test_they_are_refused_with_advice(self) -> None:
        picture = HandPicture(users={(30000, "tcp"): ("a/b",)})
        assert ask(review(service(port(80, 43837), metadata=self.managed())), picture).causes == [
            (
                f"spec.ports[0].nodePort: Invalid value: 43837: {RANGE_WORDS}; the Service names none and the "
                "API server, whose range is wider, chose this one: write a free one yourself, such as 30001"
            )
        ]

    def test_where_none_is_free_that_is_said(self) -> None:
        picture = HandPicture(ranges=(("d", PortRange(30000, 30000)),), users={(30000, "tcp"): ("a/b",)})
        answer = ask(review(service(port(80, 43837), metadata=self.managed())), picture)
        assert answer.causes[0].endswith("chose this one: no port is free there")

    def test_a_dry_run_gets_made_up_ports_and_passes(self) -> None:
        assert ask(review(service(port(80, 32768), metadata=self.managed()), dryRun=True)).allowed

    def test_a_dry_run_of_a_written_port_is_judged(self) -> None:
        written = service(port(80, 58080), metadata=self.managed(node_port=True))
        assert ask(review(written, dryRun=True)).causes == ask(review(written)).causes != []

    def test_health_check_ports_as_well(self) -> None:
        local: dict[str, Any] = {"kind": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 40000}
        assert ask(review(service(metadata=self.managed(), **local), dryRun=True)).allowed
        assert not ask(review(service(metadata=self.managed(health=True), **local), dryRun=True)).allowed

    @pytest.mark.parametrize(
        "managed",
        [None, [], [{}], "x", [1, None], [{"fieldsV1": "x"}], [{"fieldsV1": {"f:spec": 1}}],
         [{"fieldsV1": {"f:spec": {"f:ports": 7}}}, {"fieldsV1": {"f:spec": {"f:ports": {"k:{": {}, "k:[]": {}}}}}]],
    )  # fmt: skip
    def test_managed_fields_of_any_form_harm_nothing(self, managed: object) -> None:
        answer = ask(review(service(port(80, 58080), metadata={"managedFields": managed})))
        assert RANGE_WORDS in answer.causes[0]


class TestHostileObjects:
    @pytest.mark.parametrize(
        ("written", "field"),
        [
            ({"spec": "x"}, "spec"),
            ({"spec": {"ports": {}}}, "spec.ports"),
            ({"spec": {"type": "NodePort", "ports": [{"nodePort": "30000"}]}}, "spec.ports[0].nodePort"),
            ({"spec": {"type": "NodePort", "ports": [{"nodePort": 30000.5}]}}, "spec.ports[0].nodePort"),
            ({"metadata": {"annotations": {"pointsman.dev/scheduler": 1}}}, SCHEDULER),
            ({"metadata": []}, "metadata"),
        ],
    )
    def test_a_wrong_type_is_refused_with_its_field(self, written: object, field: str) -> None:
        answer = ask(review(written))
        assert answer.status["code"] == 422
        assert [cause.split(": ")[0] for cause in answer.causes] == [field]

    @pytest.mark.parametrize("number", [-1, 65536, 2**31, 2**63, 2**64, 10**40])
    def test_numbers_that_are_no_ports(self, number: int) -> None:
        assert not ask(review(service(port(80, number)))).allowed

    @pytest.mark.parametrize("written", [None, [], "x", 1, True])
    def test_no_object(self, written: object) -> None:
        assert not ask(review(written)).allowed

    def test_nested_too_deep_is_left_to_the_failure_policy(self) -> None:
        deep = b"[" * 50_000 + b"]" * 50_000
        body = review(service()).replace(b'"apiVersion": "v1"', b'"apiVersion": "v1", "more": ' + deep)
        with pytest.raises(NotAReviewError):
            ask(body)

    def test_thousands_of_causes_are_cut(self) -> None:
        answer = ask(review(service(*(port(n, n) for n in range(1, 3000)))))
        assert len(answer.causes) == 50
        assert answer.status["message"].endswith("and 2949 more]")

    def test_a_name_that_the_api_server_makes_up(self) -> None:
        answer = ask(review(service(port(80, 58080), name="gen-x7"), name=""))
        assert answer.status["details"]["name"] == "gen-x7"

    def test_control_characters_do_not_reach_a_terminal(self) -> None:
        answer = ask(review(service(scheduler="\x1b[31m")))
        assert json.dumps("\x1b[31m") in answer.causes[0]
