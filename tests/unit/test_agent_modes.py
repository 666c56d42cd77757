"""Which mode is in force: chosen, changed without a gap, told; on a machine in memory and with a clock in the hand."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from pointsman.agent.modes import Choice, NoModeError, choose, why_not_installed
from pointsman.agent.outcome import Kernel
from pointsman.agent.syncer import Syncer
from pointsman.api.nodeproxy import NodeProxy
from pointsman.api.schedulers import SCHEDULERS
from pointsman.dataplane.protocol import DataplaneError, Support
from pointsman.model.objects import Endpoint, EndpointPort, EndpointSlice, Service, ServicePort
from pointsman.model.parse import key_of
from pointsman.model.plan import Frontend
from pointsman.policy.planner import Planner
from support.machine_memory import Dataplane, Machine

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pointsman.agent.outcome import Outcome
    from pointsman.api.names import Mode
    from pointsman.model.parse import Object
    from pointsman.model.plan import Answer
    from pointsman.model.problems import Problem

NO_IPVS = "no IPVS in this kernel; run `modprobe ip_vs`"
DNS = Service("kube-system", "dns", cluster_ips=("10.96.0.10",), ports=(ServicePort(53, "dns", "udp"),))
NODE_PORT = Service("shop", "web", "NodePort", cluster_ips=("10.96.0.11",), ports=(ServicePort(80, node_port=30080),))
ENDPOINTS = EndpointSlice(
    "kube-system", "dns-1", "dns", ports=(EndpointPort(5353, "dns", "udp"),), endpoints=(Endpoint("10.0.0.1"),)
)


def support_of(**reasons: str) -> Any:  # noqa: ANN401 (a function)
    def ask(mode: Mode) -> Support:
        reason = reasons.get(mode, "")
        return Support(available=not reason, schedulers=() if reason else SCHEDULERS[mode], reason=reason)

    return ask


@pytest.mark.parametrize(
    ("wanted", "fallbacks", "reasons", "mode", "why"),
    [
        ("nftables", ("iptables",), {}, "nftables", ""),
        ("ipvs", ("nftables",), {}, "ipvs", ""),
        ("ipvs", ("iptables", "nftables"), {"ipvs": "a"}, "iptables", "ipvs: a"),
        ("ipvs", ("iptables", "nftables"), {"ipvs": "a", "iptables": "b"}, "nftables", "ipvs: a; iptables: b"),
        ("ipvs", ("iptables",), {"ipvs": "a", "iptables": "b"}, "nftables", "ipvs: a; iptables: b"),
        ("nftables", (), {"nftables": "a"}, "ipvs", "nftables: a"),
    ],
)
def test_the_first_that_is_supported(
    wanted: Mode, fallbacks: tuple[Mode, ...], reasons: dict[str, str], mode: Mode, why: str
) -> None:
    found = choose(wanted, fallbacks, support_of(**reasons))
    assert found == Choice(mode, wanted, SCHEDULERS[mode], why)
    assert found.is_best == (mode == wanted)


def test_no_mode_at_all_is_an_error_that_names_each() -> None:
    asked = {"nftables": "a", "ipvs": "b", "iptables": "c", "userspace": "d"}
    with pytest.raises(
        NoModeError, match="no mode works on this node: ipvs: b; nftables: a; iptables: c; userspace: d"
    ):
        choose("ipvs", ("nftables",), support_of(**asked))


def test_those_behind_the_chosen_one_are_not_asked() -> None:
    """To ask for IPVS makes the kernel load it."""
    asked: list[Mode] = []

    def ask(mode: Mode) -> Support:
        asked.append(mode)
        return Support(available=mode == "nftables")

    choose("iptables", ("nftables", "ipvs"), ask)
    assert asked == ["iptables", "nftables"]


def test_a_scheduler_that_is_missing_is_no_reason_to_fall_back() -> None:
    found = choose("ipvs", (), lambda _mode: Support(available=True, schedulers=("rr",)))
    assert (found.mode, found.schedulers, found.is_best) == ("ipvs", ("rr",), False)


class Conntrack:
    def __init__(self) -> None:
        self.calls: list[tuple[dict[str, bool], Mapping[Frontend, frozenset[tuple[str, int]]], bool]] = []
        self.faults: list[Exception] = []

    def clean(self, frontends: Any, keep: Any, *, without_ipvs: bool = False) -> int:  # noqa: ANN401
        if self.faults:
            raise self.faults.pop()
        found: dict[Frontend, Answer | None] = frontends
        there = {frontend.address: answer is not None for frontend, answer in found.items()}
        self.calls.append((there, keep, without_ipvs))
        return 0


class Node:
    """A syncer on a machine with `nftables`, `ipvs` and others.

    Attributes:
        now: monotonic seconds.
        traces: modes of which there may be something in the kernel.
    """

    def __init__(self, *more: Mode, **spec: Any) -> None:  # noqa: ANN401 (fields of a document)
        self.machine = Machine("nftables", "ipvs", *more)
        self.conntrack = Conntrack()
        self.now = 100.0
        self.traces: set[str] = set()
        self.sysctls: list[str] = []
        self._generation = 0
        kernel = Kernel(self.machine.dataplanes(), lambda: self.conntrack, self._set, lambda mode: mode in self.traces)
        self.syncer = Syncer(Planner("node-1"), kernel, wall=lambda: 1_000.0, monotonic=lambda: self.now)
        self.configure(**spec)

    def configure(self, **spec: Any) -> NodeProxy:  # noqa: ANN401 (fields of a document)
        self._generation += 1
        metadata = {"name": "node-1", "generation": self._generation}
        self.config = NodeProxy.read({"metadata": metadata, "spec": spec})
        return self.config

    def start(self) -> Outcome:
        return self.sync(self.config, DNS, ENDPOINTS, NODE_PORT, full=True)

    def sync(self, *objects: Object, full: bool = False) -> Outcome:
        return self.syncer.sync({key_of(obj): obj for obj in objects}, full=full)

    def later(self, seconds: float, *objects: Object) -> Outcome:
        self.now += seconds
        return self.sync(*objects)

    def _set(self, _config: object, _families: object, mode: str) -> tuple[Problem, ...]:
        self.sysctls.append(mode)
        return ()


def held(node: Node) -> dict[Mode, int]:
    return {mode: len(plan.answers) for mode, plan in node.machine.plans.items()}


def told(outcome: Outcome) -> tuple[Mode, Mode | None, str, float | None]:
    facts = outcome.facts
    return facts.mode, facts.wanted, facts.why, facts.look_again


def test_the_wanted_mode_is_in_force_from_the_first_sync_on(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    node = Node(mode="ipvs", scheduler="lc")
    outcome = node.start()
    assert told(outcome) == ("ipvs", "ipvs", "", None)
    assert (outcome.full, outcome.switched, held(node)) == (True, False, {"ipvs": 3})
    plan = node.machine.plans["ipvs"]
    assert {answer.scheduler for answer in plan.answers.values()} == {"lc"}
    assert plan.settings.node_port_cidrs == ("0.0.0.0/0", "::/0")
    assert node.machine.did() == [("ipvs", "adopt")]
    assert node.machine.opened == {"ipvs": 1}
    assert (node.sysctls, caplog.messages) == (["ipvs"], [])


def test_a_node_that_lacks_it_falls_back_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    node = Node(mode="ipvs", scheduler="lc")
    node.machine.unload("ipvs", NO_IPVS)
    outcome = node.start()
    assert told(outcome) == ("nftables", "ipvs", f"ipvs: {NO_IPVS}", 30.0)
    assert held(node) == {"nftables": 3}
    assert node.machine.plans["nftables"].settings.node_port_cidrs == ()
    assert {answer.scheduler for answer in node.machine.plans["nftables"].answers.values()} == {"random"}
    assert node.machine.opened == {"nftables": 1}
    assert [problem.field for problem in outcome.facts.problems] == ["status.addresses", "spec.scheduler"]
    assert caplog.messages == [f"mode ipvs is wanted, mode nftables is in force; ipvs: {NO_IPVS}"]
    node.later(31.0)
    assert len(caplog.messages) == 1, "the same is not told again"
    node.machine.unload("ipvs", "another reason")
    node.later(31.0)
    assert len(caplog.messages) == 2


def test_a_dataplane_that_cannot_be_opened_is_not_there() -> None:
    node = Node(mode="ipvs")
    node.machine.faults["ipvs", "open"] = [DataplaneError(NO_IPVS)]
    assert told(node.start())[:3] == ("nftables", "ipvs", f"ipvs: {NO_IPVS}")
    node.machine.faults["ipvs", "open"] = [OSError(1, "Operation not permitted")]
    assert "Operation not permitted" in node.later(30.0).facts.why


def test_the_wanted_mode_comes_back_when_it_is_there(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    node = Node(mode="ipvs", syncPeriod="10s")
    node.machine.unload("ipvs", NO_IPVS)
    assert node.start().facts.look_again == 10.0
    node.machine.load("ipvs")
    node.machine.did()
    outcome = node.later(9.0)
    assert told(outcome) == ("nftables", "ipvs", f"ipvs: {NO_IPVS}", 1.0)
    assert not node.machine.did(), "it is not looked for all the time"
    outcome = node.later(1.0)
    assert told(outcome) == ("ipvs", "ipvs", "", None)
    assert (outcome.full, outcome.switched, outcome.error) == (True, True, "")
    assert node.machine.did() == [("ipvs", "adopt"), ("nftables", "retire"), ("nftables", "cleanup")]
    assert (held(node), node.machine.opened) == ({"ipvs": 3}, {"ipvs": 1})
    assert node.sysctls == ["nftables", "ipvs"]
    assert caplog.messages[1:] == ["mode ipvs is in force, as the configuration says"]


def test_a_quiet_node_in_the_wanted_mode_is_not_asked_again() -> None:
    node = Node(mode="nftables")
    assert node.start().facts.look_again is None
    node.machine.did()
    node.later(1000.0)
    assert node.machine.calls == []


def test_another_configuration_changes_the_mode_at_once() -> None:
    node = Node()
    assert told(node.start())[:2] == ("nftables", "nftables")
    node.machine.did()
    outcome = node.sync(node.configure(mode="ipvs"))
    assert (told(outcome)[:2], outcome.switched) == (("ipvs", "ipvs"), True)
    assert node.machine.did() == [("ipvs", "adopt"), ("nftables", "retire"), ("nftables", "cleanup")]
    outcome = node.sync(node.configure(mode="iptables"))
    assert told(outcome) == ("nftables", "iptables", f"iptables: {why_not_installed('iptables')}", 30.0)
    assert node.machine.did() == [("nftables", "adopt"), ("ipvs", "retire"), ("ipvs", "cleanup")]
    outcome = node.sync(node.configure(mode="iptables", fallbackModes=["userspace", "ipvs"]))
    assert told(outcome)[0] == "ipvs"


def test_what_nobody_listed_is_in_force_when_nothing_else_is_there() -> None:
    node = Node(mode="ipvs", fallbackModes=["iptables"])
    node.machine.unload("ipvs", NO_IPVS)
    outcome = node.start()
    assert told(outcome)[:2] == ("nftables", "ipvs")
    assert "spec.mode" in [problem.field for problem in outcome.facts.problems]


def test_a_mode_that_does_not_take_the_plan_leaves_the_old_one_in_force(caplog: pytest.LogCaptureFixture) -> None:
    node = Node()
    node.start()
    node.machine.faults["ipvs", "adopt"] = [DataplaneError("busy"), DataplaneError("busy")]
    outcome = node.sync(node.configure(mode="ipvs", scheduler="lc"))
    assert told(outcome) == ("nftables", "ipvs", "ipvs: busy", 30.0)
    assert (outcome.error, outcome.switched) == ("", False)
    assert {answer.scheduler for answer in node.machine.plans["nftables"].answers.values()} == {"random"}
    assert node.machine.opened == {"nftables": 1}
    web = Service("shop", "more", cluster_ips=("10.96.0.12",), ports=(ServicePort(80),))
    assert node.sync(web).written is not None
    assert held(node) == {"nftables": 4}, "changes go on reaching the old one"
    assert node.later(30.0).facts.mode == "nftables"
    assert node.later(30.0).facts.mode == "ipvs"
    assert held(node) == {"ipvs": 4}
    assert caplog.text.count("busy") == 1


def test_a_first_mode_that_does_not_take_the_plan_is_a_failed_sync_and_is_tried_again() -> None:
    node = Node(mode="ipvs")
    node.machine.faults["ipvs", "adopt"] = [DataplaneError("busy")]
    outcome = node.start()
    assert (outcome.written, outcome.error, held(node)) == (None, "busy", {})
    assert node.sync(full=True).written is not None
    assert held(node) == {"ipvs": 3}


def test_a_mode_that_stops_working_falls_back_when_the_node_says_that_it_is_gone() -> None:
    node = Node(mode="ipvs")
    node.start()
    node.machine.unload("ipvs", NO_IPVS)
    web = Service("shop", "more", cluster_ips=("10.96.0.12",), ports=(ServicePort(80),))
    outcome = node.sync(web)
    assert (outcome.written, told(outcome)[0]) == (None, "ipvs"), "one failure is no doubt"
    outcome = node.sync(full=True)
    assert outcome.written is None
    outcome = node.sync(full=True)
    assert (outcome.error, told(outcome)[:3]) == ("", ("nftables", "ipvs", f"ipvs: {NO_IPVS}"))
    assert held(node) == {"nftables": 4}
    (problem,) = [problem for problem in outcome.facts.problems if "left in the kernel" in problem.message]
    assert "what mode ipvs left in the kernel could not be removed (ipvs: the module is gone)" in problem.message
    node.machine.load("ipvs")
    outcome = node.later(30.0)
    assert (told(outcome), held(node)) == (("ipvs", "ipvs", "", None), {"ipvs": 4})
    assert not [problem for problem in outcome.facts.problems if "left in the kernel" in problem.message]


def test_a_mode_that_only_fails_stays() -> None:
    node = Node(mode="ipvs")
    node.start()
    node.machine.faults["ipvs", "adopt"] = [DataplaneError("busy")] * 5
    for _ in range(5):
        outcome = node.sync(full=True)
        assert (outcome.error, told(outcome)[:3]) == ("busy", ("ipvs", "ipvs", ""))
    assert node.sync(full=True).error == ""
    assert node.machine.opened == {"ipvs": 1}


def test_a_module_that_was_loaded_anew_is_taken_up_again() -> None:
    """The sockets of the time before are of no use, so there have to be new ones."""
    node = Node(mode="ipvs")
    node.start()
    node.machine.unload("ipvs")
    node.machine.load("ipvs")
    web = Service("shop", "more", cluster_ips=("10.96.0.12",), ports=(ServicePort(80),))
    assert node.sync(web).written is None
    assert node.sync(full=True).written is None
    outcome = node.sync(full=True)
    assert (outcome.error, told(outcome)[:3]) == ("", ("ipvs", "ipvs", ""))
    assert (held(node), node.machine.opened) == ({"ipvs": 4}, {"ipvs": 1})
    assert node.sync(Service("shop", "more", ignored="gone")).written is not None


def test_what_works_no_more_is_kept_where_nothing_else_does() -> None:
    node = Node(mode="nftables")
    node.start()
    node.machine.unload("ipvs")
    node.machine.unload("nftables")
    for _ in range(4):
        outcome = node.sync(full=True)
        assert (outcome.written, told(outcome)[:3]) == (None, ("nftables", "nftables", ""))
    node.machine.load("nftables")
    assert node.sync(full=True).written is not None


def test_no_mode_at_all_is_known_at_the_start_and_no_crash_later() -> None:
    node = Node()
    assert node.syncer.why_useless() == ""
    node.machine.unload("nftables", "no nf_tables")
    node.machine.unload("ipvs", NO_IPVS)
    assert node.syncer.why_useless().startswith(f"no mode works on this node: nftables: no nf_tables; ipvs: {NO_IPVS}")
    outcome = node.start()
    assert outcome.written is None
    assert outcome.error.startswith("no mode works on this node: ")
    node.machine.load("nftables")
    assert node.sync(full=True).written is not None
    assert held(node) == {"nftables": 3}


def test_a_scheduler_that_the_kernel_lacks_is_looked_for_where_somebody_asks_for_it() -> None:
    node = Node(mode="ipvs")
    node.machine.load("ipvs", "rr", "wlc")
    outcome = node.start()
    assert (told(outcome)[:3], outcome.facts.look_again) == (("ipvs", "ipvs", ""), 30.0)
    node.machine.calls.clear()
    outcome = node.later(30.0)
    assert (node.machine.calls, outcome.facts.look_again) == ([], 30.0), "nobody asks for what is missing"
    outcome = node.sync(Service("kube-system", "least", cluster_ips=("10.96.0.9",), ports=DNS.ports, scheduler="lc"))
    assert {f.address: a.scheduler for f, a in node.machine.plans["ipvs"].answers.items()}["10.96.0.9"] == "wlc"
    assert [problem.object for problem in outcome.facts.problems] == ["Service kube-system/least"]
    node.machine.load("ipvs", "rr", "wlc", "lc")
    outcome = node.later(30.0)
    assert {f.address: a.scheduler for f, a in node.machine.plans["ipvs"].answers.items()}["10.96.0.9"] == "lc"
    assert (outcome.facts.problems, node.machine.opened) == ((), {"ipvs": 1})


def test_what_an_agent_before_left_in_another_mode_goes_after_the_first_sync() -> None:
    before = Node(mode="ipvs")
    before.start()
    node = Node(mode="nftables")
    node.machine.plans = before.machine.plans
    node.traces = {"ipvs"}
    node.start()
    assert node.machine.did() == [("nftables", "adopt"), ("ipvs", "retire"), ("ipvs", "cleanup")]
    assert (held(node), node.machine.opened) == ({"nftables": 3}, {"nftables": 1})
    node.later(1000.0)
    assert not node.machine.did(), "once"


def test_a_mode_without_traces_is_not_even_opened() -> None:
    node = Node(mode="nftables")
    node.start()
    assert {mode for mode, _ in node.machine.calls} == {"nftables"}


def test_a_trace_of_what_the_node_does_not_support_is_none() -> None:
    node = Node(mode="nftables")
    node.traces = {"ipvs"}
    node.machine.unload("ipvs")
    assert not node.start().facts.problems[1:]
    assert node.machine.did() == [("nftables", "adopt"), ("ipvs", "retire")]
    node.later(1000.0)
    assert not node.machine.did(), "it was tried once"


def test_what_cannot_be_removed_is_told_and_tried_again() -> None:
    node = Node()
    node.start()
    node.machine.faults["nftables", "cleanup"] = [DataplaneError("busy")]
    outcome = node.sync(node.configure(mode="ipvs"))
    assert (told(outcome)[0], outcome.facts.look_again) == ("ipvs", 30.0)
    assert held(node) == {"nftables": 3, "ipvs": 3}
    assert "what mode nftables left in the kernel could not be removed (busy)" in str(outcome.facts.problems[-1])
    outcome = node.later(30.0)
    assert (held(node), outcome.facts.problems, outcome.facts.look_again) == ({"ipvs": 3}, (), None)


DNS_THERE = {"10.96.0.10": True}
PROXY = {Frontend(4, "10.96.0.10", "udp", 53): frozenset({("172.16.0.1", 40_000)})}


def test_udp_clients_of_ipvs_are_set_free_when_it_serves_them_no_more() -> None:
    node = Node(mode="ipvs")
    node.start()
    node.machine.carried["ipvs"] = 2
    node.sync(node.configure(mode="nftables"))
    assert node.conntrack.calls == [(DNS_THERE, {}, False)] * 2, "IPVS goes on to serve them"
    node.machine.carried["ipvs"] = 0
    node.conntrack.faults.append(OSError(105, "No buffer space available"))
    node.syncer.disturbed()
    assert node.syncer.has_news
    node.sync()
    node.sync()
    assert node.conntrack.calls[2:] == [(DNS_THERE, {}, True)], "when it worked"
    node.sync()
    assert len(node.conntrack.calls) == 3, "once"


def test_udp_clients_of_a_proxy_stay_while_it_is_there() -> None:
    node = Node(mode="ipvs")
    node.machine.endpoints["ipvs"] = PROXY
    node.machine.carried["ipvs"] = 1
    node.start()
    node.sync(node.configure(mode="nftables"))
    assert [keep for _, keep, _ in node.conntrack.calls] == [PROXY, PROXY]
    node.machine.carried["ipvs"] = 0
    node.syncer.disturbed()
    node.sync()
    assert node.conntrack.calls[2:] == [(DNS_THERE, {}, True)]


def test_what_drains_is_told_what_changed_even_what_came_with_the_change_of_the_mode() -> None:
    node = Node(mode="ipvs")
    node.start()
    node.machine.carried["ipvs"] = 1
    (frontend,) = PROXY
    with_it = msgspec.structs.replace(ENDPOINTS, endpoints=(Endpoint("10.0.0.2"),))
    node.sync(node.configure(mode="nftables"), with_it)
    ((mode, told),) = node.machine.followed
    assert (mode, addresses(told[frontend])) == ("ipvs", ["10.0.0.2"])
    node.sync()
    assert len(node.machine.followed) == 1, "nothing changed"
    node.machine.faults["nftables", "apply"] = [DataplaneError("busy")]
    node.machine.faults["ipvs", "follow"] = [DataplaneError("no file")]
    outcome = node.sync(ENDPOINTS)
    assert outcome.error == "busy"
    assert "mode ipvs still has could not be looked after (no file)" in outcome.facts.problems[-1].message
    problems = node.sync().facts.problems
    ((mode, told),) = node.machine.followed[1:]
    assert (mode, addresses(told[frontend])) == ("ipvs", ["10.0.0.1"]), "though nftables has not taken it yet"
    assert not any("mode ipvs" in problem.message for problem in problems)
    node.machine.carried["ipvs"] = 0
    node.syncer.disturbed()
    node.sync(with_it)
    assert len(node.machine.followed) == 2, "it drains no more"


def addresses(answer: Answer | None) -> list[str]:
    return [backend.address for backend in answer.pool.backends] if answer else []


def changed(wanted: Mode, carried: int, **spec: Any) -> tuple[Node, Outcome]:  # noqa: ANN401 (fields of a document)
    """Change from the other of two modes, which has connections of its own."""
    other: Mode = "nftables" if wanted == "ipvs" else "ipvs"
    node = Node(mode=other)
    node.start()
    node.machine.carried[other] = carried
    node.machine.did()
    return node, node.sync(node.configure(mode=wanted, **spec))


def wrong(outcome: Outcome) -> list[str]:
    return [problem.message for problem in outcome.facts.problems if problem.source == "kernel"]


def test_the_old_mode_serves_its_connections_until_they_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    node, outcome = changed("nftables", carried=200, drainTimeout="10m")
    assert node.machine.did() == [("nftables", "adopt"), ("ipvs", "retire")], "the new one has the plan first"
    assert node.machine.limits == {"ipvs": 600.0}
    assert (outcome.facts.draining, wrong(outcome), outcome.facts.look_again) == ({"ipvs": 200}, [], None)
    assert node.machine.opened == {"nftables": 1, "ipvs": 1}
    node.machine.carried["ipvs"] = 1
    node.now += 599.0
    node.syncer.disturbed()
    assert node.machine.did("tend", "retire", "cleanup") == [("ipvs", "tend"), ("nftables", "tend")]
    assert not node.syncer.has_news
    node.machine.carried["ipvs"] = 0
    node.syncer.disturbed()
    assert node.machine.did() == [("ipvs", "cleanup")]
    assert node.syncer.has_news
    assert node.sync().facts.draining == {}
    assert node.machine.opened == {"nftables": 1}
    assert caplog.messages[1:] == [
        "mode ipvs serves the 200 connections that it has, for 600 s at the most",
        "mode ipvs is through; 0 of its connections were ended",
    ]


def test_what_is_left_after_the_limit_is_ended(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    node, _ = changed("nftables", carried=3, drainTimeout="1m")
    node.now += 60.0
    node.syncer.disturbed()
    assert node.machine.did("cleanup") == [("ipvs", "cleanup")]
    assert caplog.messages[-1] == "mode ipvs is through; 3 of its connections were ended"


def test_what_a_dataplane_would_end_by_itself_is_counted_too(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """IPVS drops what is left when it is tended."""
    caplog.set_level(logging.INFO)
    node, _ = changed("nftables", carried=50, drainTimeout="2s")

    limit = node.now + 2.0

    def tend(dataplane: Dataplane) -> None:
        if node.now >= limit:
            node.machine.carried[dataplane.mode] = 0

    monkeypatch.setattr(Dataplane, "tend", tend)
    node.now += 2.0
    node.syncer.disturbed()
    assert node.machine.did("cleanup") == [("ipvs", "cleanup")]
    assert caplog.messages[-1] == "mode ipvs is through; 50 of its connections were ended"


def test_a_mode_comes_back_while_it_drains_and_loses_nothing() -> None:
    node, _ = changed("nftables", carried=3)
    node.machine.carried["nftables"] = 4
    node.machine.did()
    outcome = node.sync(node.configure(mode="ipvs"))
    assert node.machine.did() == [("ipvs", "adopt"), ("nftables", "retire")], "nothing is removed"
    assert (told(outcome)[0], outcome.facts.draining) == ("ipvs", {"nftables": 4})
    node.now += 10_000.0
    node.syncer.disturbed()
    assert held(node) == {"ipvs": 3}, "the time of the mode in force is not over"


def test_a_mode_that_fails_to_come_back_goes_on_to_drain() -> None:
    node, _ = changed("nftables", carried=3)
    node.machine.faults["ipvs", "adopt"] = [DataplaneError("busy")]
    node.machine.did()
    outcome = node.sync(node.configure(mode="ipvs"))
    assert node.machine.did() == [("ipvs", "adopt"), ("ipvs", "retire"), ("nftables", "adopt")]
    assert (told(outcome)[:3], outcome.facts.draining) == (("nftables", "ipvs", "ipvs: busy"), {"ipvs": 3})
    assert (outcome.error, held(node)) == ("", {"nftables": 3, "ipvs": 3})


def test_what_a_mode_wrote_before_it_failed_is_taken_back_and_its_connections_are_served() -> None:
    """It may have decided already, as where the old one is `ipvs`."""
    node = Node()
    node.start()
    node.machine.carried["ipvs"] = 1
    node.machine.faults["ipvs", "adopt"] = [DataplaneError("half of it is there")]
    node.machine.did()
    outcome = node.sync(node.configure(mode="ipvs"))
    assert node.machine.did() == [("ipvs", "adopt"), ("ipvs", "retire"), ("nftables", "adopt")]
    assert (told(outcome)[:3], outcome.facts.draining) == (
        ("nftables", "ipvs", "ipvs: half of it is there"), {"ipvs": 1},
    )  # fmt: skip


def test_what_a_mode_wrote_before_it_failed_goes_even_if_it_cannot_retire() -> None:
    node = Node()
    node.start()
    node.machine.faults["ipvs", "adopt"] = node.machine.faults["ipvs", "retire"] = [DataplaneError("busy")] * 2
    node.machine.did()
    outcome = node.sync(node.configure(mode="ipvs"))
    assert node.machine.did() == [
        ("ipvs", "adopt"), ("ipvs", "retire"), ("ipvs", "cleanup"), ("nftables", "adopt"),
    ]  # fmt: skip
    assert (wrong(outcome), held(node), node.machine.opened) == ([], {"nftables": 3}, {"nftables": 1})


def test_what_a_mode_wrote_before_it_failed_is_told_when_it_stays() -> None:
    node = Node()
    node.start()
    node.machine.faults["ipvs", "adopt"] = [DataplaneError("busy")]
    node.machine.faults["ipvs", "retire"] = [DataplaneError("busy")]
    node.machine.faults["ipvs", "cleanup"] = [DataplaneError("still busy")]
    outcome = node.sync(node.configure(mode="ipvs"))
    assert "what mode ipvs left in the kernel could not be removed (still busy)" in str(outcome.facts.problems)
    assert outcome.facts.look_again == 30.0


def test_a_mode_that_cannot_retire_goes_on_to_serve_and_is_asked_again() -> None:
    node = Node(mode="ipvs")
    node.start()
    node.machine.carried["ipvs"] = 2
    node.machine.faults["ipvs", "retire"] = [DataplaneError("busy")]
    outcome = node.sync(node.configure(mode="nftables"))
    assert (told(outcome)[0], outcome.facts.look_again) == ("nftables", 30.0)
    assert "(busy)" in str(outcome.facts.problems)
    assert node.machine.opened == {"nftables": 1, "ipvs": 1}, "closing it could end connections"
    assert not node.conntrack.calls[-1][2], "it serves its UDP clients"
    outcome = node.later(30.0)
    assert (wrong(outcome), outcome.facts.draining) == ([], {"ipvs": 2})


def test_draining_that_fails_is_told_and_tried_again() -> None:
    node, _ = changed("nftables", carried=2)
    node.machine.faults["ipvs", "tend"] = [OSError(105, "No buffer space available")]
    node.syncer.disturbed()
    assert node.syncer.has_news
    assert "connections that mode ipvs still has could not be looked after" in str(node.sync().facts.problems)
    node.syncer.disturbed()
    outcome = node.sync()
    assert (wrong(outcome), outcome.facts.draining) == ([], {"ipvs": 2})


def test_what_drained_and_is_taken_away_drains_no_more() -> None:
    node, _ = changed("nftables", carried=2)
    node.machine.unload("ipvs", NO_IPVS)
    node.machine.faults["ipvs", "tend"] = [DataplaneError("the module is gone")]
    node.syncer.disturbed()
    outcome = node.sync()
    assert outcome.facts.draining == {}
    assert node.conntrack.calls[-1] == (DNS_THERE, {}, True)
    node.machine.load("ipvs")
    node.machine.carried["ipvs"] = 0
    node.later(30.0)
    node.syncer.disturbed()
    assert not wrong(node.sync())


def test_what_an_agent_before_left_drains() -> None:
    node = Node(mode="nftables")
    node.traces = {"ipvs"}
    node.machine.carried["ipvs"] = 5
    outcome = node.start()
    assert node.machine.did() == [("nftables", "adopt"), ("ipvs", "retire")]
    assert outcome.facts.draining == {"ipvs": 5}


def test_several_drain_at_once() -> None:
    node = Node("userspace", mode="ipvs")
    node.start()
    node.machine.carried.update({"ipvs": 1, "userspace": 2})
    node.sync(node.configure(mode="userspace"))
    outcome = node.sync(node.configure(mode="nftables"))
    assert outcome.facts.draining == {"ipvs": 1, "userspace": 2}
    node.machine.carried["ipvs"] = 0
    node.syncer.disturbed()
    assert node.sync().facts.draining == {"userspace": 2}
    node.machine.did()
    node.syncer.clean_up()
    assert node.machine.did() == [("nftables", "cleanup"), ("userspace", "cleanup")]


def test_cleaning_up_removes_what_each_mode_has() -> None:
    node = Node(mode="ipvs")
    node.start()
    node.traces = {"nftables"}
    node.machine.did()
    node.syncer.clean_up()
    assert node.machine.did() == [("ipvs", "cleanup"), ("nftables", "cleanup")]
    assert held(node) == {}


def test_cleaning_up_before_the_first_sync_removes_what_was_left() -> None:
    before = Node(mode="ipvs")
    before.start()
    node = Node()
    node.machine.plans = before.machine.plans
    node.traces = {"ipvs", "nftables"}
    node.syncer.clean_up()
    assert held(node) == {}


def test_cleaning_up_that_fails_is_an_error() -> None:
    node = Node(mode="ipvs")
    node.start()
    node.traces = {"nftables"}
    node.machine.faults["nftables", "cleanup"] = [DataplaneError("busy")]
    with pytest.raises(DataplaneError, match=r"what mode nftables left in the kernel could not be removed \(busy\)"):
        node.syncer.clean_up()
    node.machine.faults["ipvs", "cleanup"] = [DataplaneError("no")]
    with pytest.raises(DataplaneError, match="no"):
        node.syncer.clean_up()
