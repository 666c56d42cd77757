from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pointsman.agent.outcome import Facts, Outcome
from pointsman.agent.status import Account, Picture, difference, is_urgent, status_of, status_of_removed
from pointsman.api.nodeproxy import NodeProxy
from pointsman.api.status import AgentInfo, HeldVersions, NodeProxyStatus
from pointsman.api.timestamps import rfc3339
from pointsman.dataplane.protocol import Written
from pointsman.model.problems import Problem
from pointsman.policy.counts import Counts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pointsman.api.status import Condition

NOW = 1_700_000_000.0
AGENT = AgentInfo(version="1", started_at="2023-11-14T00:00:00Z")
WRONG = Problem("kernel", "", "", "no\x1b[2J", "try", "all")


def node_proxy(generation: int = 1, uid: str = "u", **spec: Any) -> NodeProxy:  # noqa: ANN401 (fields of a document)
    metadata = {"name": "node-1", "generation": generation, "uid": uid}
    return NodeProxy.read({"metadata": metadata, "spec": spec})


def facts(source: NodeProxy | None, why: str = "") -> Facts:
    return Facts(
        mode="nftables",
        counts=Counts(3, 4, 5, 0, 0),
        health_checks={},
        problems=(),
        node_leaving=False,
        min_sync_period=0.05,
        sync_period=30.0,
        node_proxy=source,
        why=why,
    )


def outcome(
    written: Written | None = None,
    *,
    full: bool = True,
    source: NodeProxy | None = None,
    at: float = NOW,
    error: str = "",
    why: str = "",
) -> Outcome:
    taken = None if error else written or Written(added=1)
    return Outcome(full, frozenset(), 0.1, at, taken, error, (), (), facts(source or node_proxy(), why))


def account(*outcomes: Outcome) -> Account:
    made = Account()
    for one in outcomes:
        made.add(one)
    return made


def status(
    account: Account,
    known: NodeProxy | None = None,
    *,
    now: float = NOW + 5,
    healthy: bool = True,
    versions: Mapping[Any, int] | None = None,
    problems: tuple[Problem, ...] = (),
) -> NodeProxyStatus:
    picture = Picture(account, healthy, versions or {}, problems, AGENT, now)
    return status_of(picture, known or node_proxy())


def condition(of: NodeProxyStatus, name: str) -> Condition:
    return next(condition for condition in of.conditions if condition.type == name)


def ready(of: NodeProxyStatus) -> tuple[str, str]:
    found = condition(of, "Ready")
    return found.status, found.reason


def with_status(known: NodeProxy, of: NodeProxyStatus) -> NodeProxy:
    return known.model_copy(update={"status": of})


def test_a_node_that_is_in_force_says_all_of_it() -> None:
    made = status(account(outcome()), versions={"Service": 12, "EndpointSlice": 15, "Node": 99})
    time = "2023-11-14T22:13:25Z"
    assert made.model_dump(mode="json", by_alias=True) == {
        "observedGeneration": 1,
        "mode": "nftables",
        "services": 3,
        "endpoints": 5,
        "lastSyncTime": "2023-11-14T22:13:20Z",
        "resourceVersions": {"services": "12", "endpointSlices": "15"},
        "problems": [],
        "problemCount": 0,
        "agent": {"version": "1", "startedAt": "2023-11-14T00:00:00Z"},
        "conditions": [
            {
                "type": "Ready",
                "status": "True",
                "reason": "Programmed",
                "message": "the kernel holds what the configuration and the Services say",
                "lastTransitionTime": time,
                "observedGeneration": 1,
            },
            {
                "type": "ModeInForce",
                "status": "True",
                "reason": "AsConfigured",
                "message": "mode nftables is in force",
                "lastTransitionTime": time,
                "observedGeneration": 1,
            },
        ],
    }


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, ("True", "AsConfigured")),
        ({"mode": "ipvs", "fallbackModes": ["iptables", "nftables"]}, ("True", "FellBack")),
        ({"mode": "ipvs", "fallbackModes": ["iptables"]}, ("False", "ModeNotSupported")),
        ({"mode": "userspace"}, ("True", "FellBack")),
    ],
)
def test_the_mode_in_force_is_compared_with_the_wanted_one(spec: dict[str, Any], expected: tuple[str, str]) -> None:
    found = condition(status(account(outcome(source=node_proxy(**spec)))), "ModeInForce")
    assert (found.status, found.reason) == expected
    assert "nftables" in found.message


@pytest.mark.parametrize("fallbacks", [[], ["iptables"]])
def test_the_mode_in_force_is_told_with_the_reason_and_the_remedy(fallbacks: list[str]) -> None:
    made = account(outcome(source=node_proxy(mode="ipvs", fallbackModes=fallbacks), why="ipvs: no IPVS; load it"))
    message = condition(status(made), "ModeInForce").message
    assert message.startswith("mode ipvs is not there on this node; nftables ")
    assert message.endswith("; ipvs: no IPVS; load it")


def test_modes_that_still_serve_connections_are_told() -> None:
    ended = outcome(Written())
    drains = replace(ended, facts=replace(ended.facts, draining={"ipvs": 200}))
    message = condition(status(account(drains)), "ModeInForce").message
    assert message == (
        "mode nftables is in force; mode ipvs serves the 200 connections that it had, until they end or "
        "spec.drainTimeout is over"
    )
    assert condition(status(account(drains, ended)), "ModeInForce").message == "mode nftables is in force"


def test_a_failure_is_one_after_a_second() -> None:
    failed = account(outcome(source=node_proxy(1)), outcome(source=node_proxy(2), at=NOW + 10, error="EBUSY"))
    known = node_proxy(2)
    assert ready(status(failed, known, now=NOW + 10.5)) == ("True", "Programmed")
    made = status(failed, known, now=NOW + 11)
    assert ready(made) == ("False", "SyncFailed")
    assert "EBUSY" in condition(made, "Ready").message
    assert made.observed_generation == 1, "the new configuration is not in the kernel"
    failed.add(outcome(source=known, at=NOW + 12))
    assert ready(status(failed, known)) == ("True", "Programmed")


def test_what_the_kernel_refused_counts_until_a_full_sync_is_whole() -> None:
    refusing = account(outcome(Written(refused={"a": "no", "b": "no"})))
    assert ready(status(refusing)) == ("False", "ElementsRefused")
    refusing.add(outcome(Written(added=1), full=False))
    assert "2 parts" in condition(status(refusing), "Ready").message
    refusing.add(outcome())
    assert ready(status(refusing)) == ("True", "Programmed")


def test_changes_that_wait_too_long_are_a_failure() -> None:
    assert ready(status(account(outcome()), healthy=False)) == ("False", "SyncFailed")


def test_before_the_first_sync_counts_are_left_as_they_are() -> None:
    known = with_status(node_proxy(4), status(account(outcome(source=node_proxy(3)))))
    made = status(Account(), known, problems=(WRONG,))
    assert ready(made) == ("False", "NotSynced")
    assert (made.services, made.observed_generation, made.problem_count) == (3, 3, 1)
    assert condition(made, "ModeInForce") == condition(known.status, "ModeInForce")
    assert ready(status(account(outcome(error="no")), known)) == ("False", "SyncFailed")


def test_a_restart_and_the_same_again_do_not_move_times() -> None:
    first = status(account(outcome()), now=NOW)
    again = status(account(outcome()), with_status(node_proxy(), first), now=NOW + 1000)
    assert difference(first, again) == {}


def test_a_condition_that_another_set_moves_back_with_a_new_time() -> None:
    first = status(account(outcome()), now=NOW)
    silent = first.conditions[0].model_copy(update={"status": "Unknown", "reason": "AgentSilent"})
    known = with_status(node_proxy(), first.model_copy(update={"conditions": (silent, first.conditions[1])}))
    again = status(account(outcome()), known, now=NOW + 1000)
    assert condition(again, "Ready").last_transition_time == rfc3339(NOW + 1000)
    assert condition(again, "ModeInForce").last_transition_time == rfc3339(NOW)
    assert difference(known.status, again).keys() == {"conditions"}


def test_a_node_proxy_that_was_made_anew_is_not_in_force_yet() -> None:
    assert status(account(outcome(source=node_proxy(7, "old"))), node_proxy(1, "new")).observed_generation == 0


def test_a_sync_that_changed_nothing_is_no_news() -> None:
    quiet = account(outcome(at=NOW))
    before = status(quiet)
    quiet.add(outcome(Written(), full=False, at=NOW + 100))
    assert difference(before, status(quiet)) == {}
    quiet.add(outcome(Written(removed=1), full=False, at=NOW + 100))
    assert difference(before, status(quiet)) == {"lastSyncTime": "2023-11-14T22:15:00Z"}


def test_twenty_problems_are_named_and_all_are_counted() -> None:
    many = tuple(Problem("f", f"Service a/b{number}", "spec", "bad", "mend") for number in range(30))
    made = status(account(outcome()), problems=many)
    assert (len(made.problems), made.problem_count) == (20, 30)
    assert made.problems[0].object == "Service a/b0"


def test_many_of_one_kind_hide_no_other() -> None:
    field = "metadata.annotations[pointsman.dev/scheduler]"
    many = [Problem("", f"Service a/b{number:03}", field, "no lc", "mend") for number in range(500)]
    ports = [Problem("", f"Service c/d{number}", "spec.ports[0].nodePort", "bad", "mend") for number in range(3)]
    made = status(account(outcome()), problems=tuple(sorted([*many, *ports, WRONG])))
    named = [problem.object for problem in made.problems]
    assert named == [*(f"Service a/b{number:03}" for number in range(16)), *(port.object for port in ports), "kernel"]
    assert made.problem_count == 504


def test_what_is_said_is_short_and_prints() -> None:
    (reported,) = status(account(outcome()), problems=(WRONG,)).problems
    assert (reported.object, reported.message) == ("kernel", r"no\x1b[2J")
    (reported,) = status(account(outcome()), problems=(Problem("", "x", "", "y" * 5000, "z"),)).problems
    assert len(reported.message) == 1000


@pytest.mark.parametrize(
    ("change", "versions", "urgent"),
    [
        ({"services": 1, "endpoints": 2, "last_sync_time": "x"}, True, False),
        ({"resource_versions": HeldVersions(services="1")}, False, False),
        ({"resource_versions": HeldVersions(services="1")}, True, True),
        ({"observed_generation": 2}, False, True),
        ({"problem_count": 1}, False, True),
        ({"mode": "nftables"}, False, True),
    ],
)
def test_what_has_to_be_written_at_once(change: dict[str, Any], versions: bool, urgent: bool) -> None:  # noqa: FBT001 (of the table)
    some = NodeProxyStatus(agent=AGENT)
    patch = difference(some, some.model_copy(update=change))
    assert len(patch) == len(change)
    assert is_urgent(patch, versions=versions) is urgent


def test_a_first_status_is_whole() -> None:
    patch = difference(NodeProxyStatus(), NodeProxyStatus(mode="nftables"))
    assert (patch["mode"], patch["services"], patch["problems"]) == ("nftables", 0, [])
    assert "lastSyncTime" not in patch


def test_a_field_that_is_gone_is_deleted_by_the_patch() -> None:
    assert difference(NodeProxyStatus(mode="nftables"), NodeProxyStatus()) == {"mode": None}


def test_a_node_that_was_cleaned_up_has_nothing_in_force() -> None:
    before = status(account(outcome()), problems=(WRONG,), versions={"Service": 12})
    made = status_of_removed(with_status(node_proxy(), before), NOW + 60)
    (ready,) = made.conditions
    assert (ready.type, ready.status, ready.reason) == ("Ready", "False", "Removed")
    assert ready.last_transition_time == rfc3339(NOW + 60)
    assert made == NodeProxyStatus(agent=AGENT, conditions=(ready,))
