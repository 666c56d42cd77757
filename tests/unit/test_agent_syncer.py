from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pointsman.agent.outcome import Kernel
from pointsman.agent.syncer import Syncer
from pointsman.api.nodeproxy import NodeProxy
from pointsman.dataplane.protocol import DataplaneError, Written
from pointsman.model.objects import Endpoint, EndpointPort, EndpointSlice, Node, ObjectKey, Service, ServicePort
from pointsman.model.parse import key_of
from pointsman.model.plan import Frontend
from pointsman.policy.planner import Planner
from support.machine_memory import Machine

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet

    from pointsman.model.parse import Object
    from pointsman.model.plan import Answer
    from pointsman.model.problems import Problem


class FakeConntrack:
    def __init__(self) -> None:
        self.calls: list[dict[str, tuple[str, ...] | None]] = []
        self.kept: list[Mapping[Frontend, AbstractSet[tuple[str, int]]]] = []
        self.fail: Exception | None = None

    def clean(
        self,
        frontends: Mapping[Frontend, Answer | None],
        keep: Mapping[Frontend, AbstractSet[tuple[str, int]]],
        *,
        without_ipvs: bool = False,
    ) -> int:
        assert without_ipvs, "ipvs is not in force here"
        if self.fail is not None:
            raise self.fail
        self.kept.append(keep)
        self.calls.append(
            {
                frontend.address: None if answer is None else tuple(b.address for b in answer.pool.backends)
                for frontend, answer in frontends.items()
            }
        )
        return len(frontends)


class Agent:
    def __init__(self) -> None:
        self.machine = Machine("nftables")
        self.conntrack = FakeConntrack()
        self.sysctls: list[tuple[str, frozenset[int]]] = []
        kernel = Kernel(self.machine.dataplanes(), lambda: self.conntrack, self._set)
        self.syncer = Syncer(Planner("node-1"), kernel, wall=lambda: 1_000.0, monotonic=lambda: 0.0)

    def _set(self, _config: object, families: frozenset[int], mode: str) -> tuple[Problem, ...]:
        self.sysctls.append((mode, families))
        return ()

    def sync(self, *objects: Object, full: bool = False, gone: tuple[Object, ...] = ()):  # noqa: ANN201 (an Outcome)
        changes: dict[ObjectKey, Object | None] = {key_of(obj): obj for obj in objects}
        changes |= dict.fromkeys(map(key_of, gone))
        return self.syncer.sync(changes, full=full)

    def fail(self, error: Exception, *verbs: str) -> None:
        """Let the next write fail."""
        for verb in verbs or ("adopt", "apply"):
            self.machine.faults[("nftables", verb)] = [error]

    def succeed(self) -> None:
        self.machine.faults.clear()

    def addresses(self, frontend: str) -> list[str]:
        plan = self.machine.plans["nftables"]
        return [b.address for f, answer in plan.answers.items() if f.address == frontend for b in answer.pool.backends]


@pytest.fixture
def agent() -> Agent:
    return Agent()


def dns(protocol: str = "udp") -> Service:
    return Service("kube-system", "dns", cluster_ips=("10.96.0.10",), ports=(ServicePort(53, "dns", protocol),))


def endpoints(*addresses: str, protocol: str = "udp", trigger_time: float | None = None) -> EndpointSlice:
    return EndpointSlice(
        "kube-system",
        "dns-1",
        "dns",
        ports=(EndpointPort(5353, "dns", protocol),),
        endpoints=tuple(Endpoint(address) for address in addresses),
        trigger_time=trigger_time,
    )


def test_the_first_sync_adopts_and_the_next_ones_apply(agent: Agent) -> None:
    outcome = agent.sync(dns(), endpoints("10.0.0.1"), full=True)
    assert (outcome.full, outcome.families, outcome.error) == (True, {4, 6}, "")
    assert outcome.written == Written(added=1)
    assert agent.addresses("10.96.0.10") == ["10.0.0.1"]
    outcome = agent.sync(endpoints("10.0.0.1", "10.0.0.2"))
    assert (outcome.full, outcome.families) == (False, {4})
    assert agent.addresses("10.96.0.10") == ["10.0.0.1", "10.0.0.2"]
    agent.sync(gone=(dns(),))
    assert not agent.machine.plans["nftables"].answers
    assert [verb for _, verb in agent.machine.did()] == ["adopt", "apply", "apply"]


def test_what_was_counted_comes_with_the_plan_that_is_in_force(agent: Agent) -> None:
    assert agent.syncer.count().traffic == {}
    agent.sync(dns(), full=True)
    found = agent.syncer.count()
    assert (found.mode, found.time) == ("nftables", 1_000.0)
    assert [answer.service_port for answer in found.answers.values()] == ["kube-system/dns:dns"]
    assert [traffic.connections for traffic in found.traffic.values()] == [3]
    agent.sync(gone=(dns(),))
    assert len(found.answers) == 1


def test_a_change_without_effect_does_not_reach_the_kernel(agent: Agent) -> None:
    agent.sync(dns(), full=True)
    outcome = agent.sync(Service("kube-system", "headless", ignored="headless"))
    assert outcome.written == Written()
    assert outcome.families == frozenset()
    assert [verb for _, verb in agent.machine.did()] == ["adopt"]


def test_a_refusal_is_an_outcome_and_the_change_is_kept(agent: Agent) -> None:
    agent.sync(dns(), full=True)
    errors = (DataplaneError("element 10.96.0.10: no"), OSError(105, "No buffer space available"))
    for full, error in zip((False, True), errors, strict=True):
        agent.fail(error, "adopt" if full else "apply")
        outcome = agent.sync(endpoints("10.0.0.1"), full=full)
        assert outcome.written is None
        assert outcome.error == str(error)
        assert agent.addresses("10.96.0.10") == []
    outcome = agent.sync(full=True)
    assert outcome.error == ""
    assert agent.addresses("10.96.0.10") == ["10.0.0.1"]


def test_a_fault_of_ours_is_no_outcome(agent: Agent) -> None:
    agent.fail(KeyError("x"))
    with pytest.raises(KeyError):
        agent.sync(full=True)


def test_trigger_times_are_told_once_they_are_in_the_kernel(agent: Agent) -> None:
    agent.sync(dns(), endpoints("10.0.0.1", trigger_time=999.0), full=True)
    agent.fail(DataplaneError("no"), "apply")
    assert agent.sync(endpoints("10.0.0.2", trigger_time=1_001.0)).triggers == ()
    assert agent.sync(full=True).triggers == (1_001.0,), "those from before the agent's start are not its own"
    assert agent.sync(full=True).triggers == ()


def test_stale_udp_entries_are_cleaned_after_the_kernel_has_the_change(agent: Agent) -> None:
    outcome = agent.sync(dns(), endpoints("10.0.0.1", "10.0.0.2"), full=True)
    assert [cleaned.family for cleaned in outcome.cleaned] == [4]
    assert agent.conntrack.calls == [{"10.96.0.10": ("10.0.0.1", "10.0.0.2")}], "all of them after the start"
    agent.sync(endpoints("10.0.0.1", "10.0.0.2", "10.0.0.3"))
    assert len(agent.conntrack.calls) == 1
    agent.sync(endpoints("10.0.0.3"))
    assert agent.conntrack.calls[1:] == [{"10.96.0.10": ("10.0.0.3",)}]
    outcome = agent.sync(gone=(dns(),))
    assert agent.conntrack.calls[2:] == [{"10.96.0.10": None}]
    assert outcome.cleaned[0].entries == 1


def test_what_answers_in_place_of_backends_is_not_cleaned_away(agent: Agent) -> None:
    frontend = Frontend(4, "10.96.0.10", "udp", 53)
    agent.machine.endpoints["nftables"] = proxy = {frontend: frozenset({("172.16.0.1", 40_000)})}
    agent.sync(dns(), endpoints("10.1.0.1"), full=True)
    assert agent.conntrack.kept == [proxy]


def test_what_was_gone_before_the_start_is_cleaned_if_a_proxy_answered_there(agent: Agent) -> None:
    agent.machine.endpoints["nftables"] = {
        Frontend(4, "10.96.0.9", "udp", 53): frozenset(),
        Frontend(4, "10.96.0.9", "tcp", 53): frozenset(),
    }
    agent.sync(dns(), endpoints("10.1.0.1"), full=True)
    assert agent.conntrack.calls == [{"10.96.0.10": ("10.1.0.1",), "10.96.0.9": None}]


def test_cleaning_waits_for_the_kernel(agent: Agent) -> None:
    agent.sync(dns(), endpoints("10.0.0.1"), full=True)
    agent.fail(DataplaneError("no"), "apply")
    agent.sync(gone=(dns(),))
    assert len(agent.conntrack.calls) == 1
    agent.sync(full=True)
    assert agent.conntrack.calls[1:] == [{"10.96.0.10": None}]


def test_tcp_has_nothing_to_clean(agent: Agent) -> None:
    agent.sync(dns("tcp"), endpoints("10.0.0.1", protocol="tcp"), full=True)
    agent.sync(endpoints(protocol="tcp"))
    assert agent.conntrack.calls == []


def test_cleaning_that_fails_is_a_problem_and_is_tried_again(agent: Agent) -> None:
    agent.conntrack.fail = OSError(1, "Operation not permitted")
    outcome = agent.sync(dns(), endpoints("10.0.0.1"), full=True)
    assert outcome.error == ""
    assert "Operation not permitted" in str(outcome.facts.problems[-1])
    agent.conntrack.fail = None
    outcome = agent.sync(Node("node-1"))
    assert agent.conntrack.calls == [{"10.96.0.10": ("10.0.0.1",)}]
    assert outcome.facts.problems == ()


def test_sysctls_are_set_at_the_start_and_for_a_new_family(agent: Agent) -> None:
    agent.sync(dns(), full=True)
    agent.sync(endpoints("10.0.0.1"))
    agent.sync(Service("default", "six", cluster_ips=("fd00::1",), ports=(ServicePort(80),)))
    assert agent.sysctls == [("nftables", {4}), ("nftables", {4, 6})]


def test_sysctls_are_set_for_a_new_configuration(agent: Agent) -> None:
    agent.sync(_configured({}), full=True)
    agent.sync(_configured({"iptables": {"localhostNodePorts": True}}))
    assert len(agent.sysctls) == 2
    agent.sync(dns())
    assert len(agent.sysctls) == 3, "of another family"
    agent.sync(endpoints("10.0.0.1"))
    assert len(agent.sysctls) == 3


def _configured(spec: dict[str, object]) -> NodeProxy:
    return NodeProxy.read({"metadata": {"name": "node-1"}, "spec": spec})


def test_facts_are_those_of_the_planner(agent: Agent) -> None:
    outcome = agent.sync(dns(), endpoints("10.0.0.1"), Node("node-1", leaving=True), full=True)
    facts = outcome.facts
    assert (facts.mode, facts.node_leaving, facts.sync_period, facts.min_sync_period) == ("nftables", True, 30.0, 0.05)
    assert (facts.counts.services, facts.counts.endpoints) == (1, 1)


def test_closing_closes_what_was_opened(agent: Agent) -> None:
    agent.syncer.close()
    assert not agent.machine.opened
    agent.sync(full=True)
    assert agent.machine.opened == {"nftables": 1}
    agent.syncer.close()
    assert not agent.machine.opened
    assert agent.machine.plans, "the kernel keeps what it holds"


def test_each_look_at_the_tables_tends_them(agent: Agent) -> None:
    assert not agent.syncer.disturbed(), "nothing is in force yet"
    agent.sync(dns(), full=True)
    agent.machine.calls.clear()
    assert not agent.syncer.disturbed()
    assert agent.machine.calls == [("nftables", "tend"), ("nftables", "disturbed")]
    agent.machine.is_disturbed = True
    assert agent.syncer.disturbed()
    assert not agent.syncer.has_news


@pytest.mark.parametrize("error", [DataplaneError("busy"), OSError(105, "No buffer space available")])
def test_tending_that_fails_is_told_once_by_the_next_sync(agent: Agent, error: Exception) -> None:
    agent.sync(dns(), full=True)
    agent.machine.faults["nftables", "tend"] = [error, error]
    assert not agent.syncer.disturbed()
    assert agent.syncer.has_news
    (problem,) = agent.sync().facts.problems
    assert problem.message == f"mode nftables can't do all that is due: {error}"
    assert not agent.syncer.disturbed()
    assert not agent.syncer.has_news, "it is the same"
    assert not agent.syncer.disturbed()
    assert agent.syncer.has_news
    assert not agent.sync().facts.problems
