from __future__ import annotations

import pytest

from conformance.suite import Result, check_complete, results
from conformance.table import About, page, regressions, summary
from pointsman.lab.namespaces import LabError

OUTPUT = """\
[ReportBeforeSuite] PASSED [0.000 seconds]
------------------------------
[SynchronizedBeforeSuite] PASSED [0.056 seconds]
------------------------------
SSSSSS
------------------------------
[sig-network] Services should serve a basic endpoint from pods [Conformance] [sig-network, Conformance]
k8s.io/kubernetes/test/e2e/network/service.go:800
  STEP: Creating a kubernetes client @ 01/31/26 10:00:00.000
• [11.900 seconds]
------------------------------
S [SKIPPED] [0.010 seconds]
[sig-network] Services [It] should need a cloud [sig-network]
------------------------------
[sig-network] Services should be rejected when no endpoints exist [sig-network]
  STEP: Destroying namespace
• [FAILED] [62.486 seconds]
[sig-network] Services [It] should be rejected when no endpoints exist [sig-network]
k8s.io/kubernetes/test/e2e/network/service.go:2000
------------------------------
[sig-network] Services should give [up] [sig-network]
• [2.000 seconds]
"""

ENDED = """\
[ReportAfterSuite] PASSED [0.000 seconds]

Ran 3 of 3206 Specs in 76.386 seconds
FAIL! -- 2 Passed | 1 Failed | 0 Pending | 3203 Skipped
"""

BASIC = "should serve a basic endpoint from pods [Conformance]"
REJECTED = "should be rejected when no endpoints exist"
GIVES_UP = "should give [up]"


def test_results_are_read_out_of_what_the_tests_say() -> None:
    assert list(results(OUTPUT.splitlines(keepends=True))) == [
        Result(BASIC, passed=True, seconds=11.9),
        Result(REJECTED, passed=False, seconds=62.486),
        Result(GIVES_UP, passed=True, seconds=2.0),
    ]


def test_tests_that_did_not_come_to_their_end_are_an_error() -> None:
    check_complete(OUTPUT + ENDED)
    for cut in (OUTPUT, "", ENDED, OUTPUT.partition("S [SKIPPED]")[0] + ENDED, ENDED.replace("Ran 3", "Ran 0")):
        with pytest.raises(LabError, match="did not come to their end"):
            check_complete(cut)


def result(name: str, *, passed: bool) -> Result:
    return Result(name, passed=passed, seconds=1.0)


def test_what_kube_proxy_passes_is_wanted_of_pointsman() -> None:
    ours = [result(BASIC, passed=True), result(REJECTED, passed=False), result(GIVES_UP, passed=False)]
    theirs = [result(BASIC, passed=True), result(REJECTED, passed=True), result(GIVES_UP, passed=False)]
    assert regressions({"Pointsman": ours, "kube-proxy": theirs}) == [REJECTED]
    assert regressions({"Pointsman": [], "kube-proxy": theirs}) == [REJECTED, BASIC]
    assert regressions({"kube-proxy": theirs}) == []


def test_conformance_is_wanted_whatever_kube_proxy_does() -> None:
    assert regressions({"Pointsman": [result(BASIC, passed=False), result(REJECTED, passed=False)]}) == [BASIC]


def test_the_page_has_a_row_for_each_test_and_counts() -> None:
    found = {
        "Pointsman": [result(REJECTED, passed=True), result(BASIC, passed=True)],
        "kube-proxy": [result(BASIC, passed=False)],
    }
    text = page(About("2026-01-31", "v1.37.2", "0.1.0", "6.1"), found)
    rows = text.splitlines()[-2:]
    assert rows == [f"| {BASIC} | passed, 1 s | **failed**, 1 s |", f"| {REJECTED} | passed, 1 s | not run |"]
    assert "2026-01-31, Kubernetes v1.37.2, Pointsman 0.1.0, kernel 6.1" in text
    assert summary(found)[0] == "- Pointsman: 1 of 1 conformance tests passed, 2 of 2 in all, in 2 s"
