"""The result as a page of the documentation; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from conformance.suite import CONFORMANCE, FOCUS, SKIP

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from conformance.suite import Result

_KUBE_PROXY: Final = "kube-proxy"
_POINTSMAN: Final = "Pointsman"
_VERDICTS: Final = {True: "passed", False: "**failed**"}


class About(NamedTuple):
    """What was run, where and when.

    Attributes:
        date: as ``2026-01-31``.
        kubernetes, pointsman: versions.
        kernel: its release.
    """

    date: str
    kubernetes: str
    pointsman: str
    kernel: str


def page(about: About, found: Mapping[str, Sequence[Result]]) -> str:
    """Write the page.

    Args:
        about: see there.
        found: the results by proxy.
    """
    lines = [
        "# Kubernetes' own tests of Services",
        "",
        "Made by `make conformance ARGS=--write`; don't edit. It starts a cluster of two nodes with containerd,",
        "kubelet and CoreDNS, once with Pointsman, installed by its chart, once with kube-proxy (nftables mode), as",
        f"its only Service proxy, and runs the end-to-end tests of Kubernetes that match `{FOCUS}`,",
        f"but for `{SKIP}`. (The last because nodes that share",
        "a file system evict no Pod for the room that it takes, whoever the proxy is.)",
        "",
        f"{about.date}, Kubernetes {about.kubernetes}, Pointsman {about.pointsman}, kernel {about.kernel}:",
        "",
        *summary(found),
        "",
        f"| test | {' | '.join(found)} |",
        f"| --- |{' --- |' * len(found)}",
    ]
    names = sorted({result.name for results in found.values() for result in results}, key=_order)
    return "\n".join([*lines, *(_row(name, found) for name in names)]) + "\n"


def summary(found: Mapping[str, Sequence[Result]]) -> list[str]:
    """Count, a line for each proxy."""
    return [f"- {proxy}: {_counts(results)}" for proxy, results in found.items()]


def regressions(found: Mapping[str, Sequence[Result]]) -> list[str]:
    """Name the tests that Pointsman has to pass and does not: those of conformance, and all that kube-proxy passes."""
    wanted = {result.name for result in found.get(_KUBE_PROXY, ()) if result.passed}
    wanted |= {result.name for result in found.get(_POINTSMAN, ()) if result.name.endswith(CONFORMANCE)}
    passed = {result.name for result in found.get(_POINTSMAN, ()) if result.passed}
    return sorted(wanted - passed) if _POINTSMAN in found else []


def _counts(results: Sequence[Result]) -> str:
    core = [result for result in results if result.name.endswith(CONFORMANCE)]
    seconds = sum(result.seconds for result in results)
    return (
        f"{sum(r.passed for r in core)} of {len(core)} conformance tests passed, "
        f"{sum(r.passed for r in results)} of {len(results)} in all, in {seconds:.0f} s"
    )


def _row(name: str, found: Mapping[str, Sequence[Result]]) -> str:
    cells = []
    for results in found.values():
        verdicts = [
            ("passed" if r.passed else "**failed**") + f", {r.seconds:.0f} s" for r in results if r.name == name
        ]
        cells.append(" / ".join(verdicts) or "not run")
    return f"| {name.replace('|', chr(92) + '|')} | {' | '.join(cells)} |"


def _order(name: str) -> tuple[bool, str]:
    return not name.endswith(CONFORMANCE), name
