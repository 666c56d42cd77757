"""``pointsman cleanup``: remove what Pointsman, or kube-proxy, put into this node's kernel."""

from __future__ import annotations

import sys
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from pointsman.cli.node import SYSCTLS, SysctlRoot
from pointsman.cli.output import Output, fail, show_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman.agent.outcome import Kernel
    from pointsman.cli.cleanup_text import Report, Section
    from pointsman.dataplane.leftovers import Leftover

_LIVEZ: Final = ("127.0.0.1", 10256)
"""Where an agent with default options tells of its health, and kube-proxy likewise."""
_METRICS: Final = ("127.0.0.1", 10249)
"""Where either has its metrics."""
_PATIENCE: Final = 0.5
"""Seconds that it may take to answer."""
_PROC: Final = Path("/proc")
_KUBE_PROXY: Final = "kube-proxy"
_IPTABLES: Final = "iptables"
_UNSEEN: Final = (
    "iptables-legacy has tables here, and nothing here can list them; where mode iptables has used that, install "
    "iptables (Debian: the package iptables), and run this again"
)
_RUNNING: Final = (
    "something answers on http://{}:{}/livez; if it is the agent, it brings everything back: stop the agent first, "
    "then run this again"
)
_RUNNING_KUBE_PROXY: Final = (
    "kube-proxy runs here ({}); it brings everything back: take it from this node first, then run this again"
)


ModeToClean = Annotated[
    str,
    typer.Option(
        metavar="MODE", help="Of which mode: nftables, ipvs, iptables, userspace, or all.", show_default="all"
    ),
]
OfKubeProxy = Annotated[
    bool,
    typer.Option(
        "--kube-proxy", help="What kube-proxy left, in any of its modes. Without --mode nothing of Pointsman's."
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be removed; remove nothing.")]


def command(
    *,
    mode: ModeToClean = "",
    kube_proxy: OfKubeProxy = False,
    dry_run: DryRun = False,
    sysctl_root: SysctlRoot = SYSCTLS,
    output: Output = "text",
) -> None:
    """Remove everything that Pointsman put into this node's kernel. Services stop answering on this node.

    Stop the agent first: one that runs brings everything back. What others put there stays, and what looks like
    kube-proxy's but is needed by rules of others is named. The exit status is 1 when something could not be removed.
    """
    from pointsman.agent.entry_points import find_own  # noqa: PLC0415 (`pointsman --help` needs none of it)
    from pointsman.agent.kernel import real_kernel  # noqa: PLC0415 (as above)
    from pointsman.cli.cleanup_text import Report  # noqa: PLC0415 (as above)

    kernel = real_kernel(sysctl_root, find_own().dataplanes)
    modes = _modes(kernel, mode, kube_proxy=kube_proxy)
    report = Report(dry_run=dry_run)
    error = _clean_all(kernel, modes, report, sysctl_root, kube_proxy=kube_proxy)
    # What is gone by now is told after an error, too.
    _show(report, output)
    if error is not None:
        fail("cleanup", error)
    _look_again(kernel, modes, report, kube_proxy=kube_proxy)


def _clean_all(
    kernel: Kernel, modes: list[str], report: Report, sysctl_root: Path, *, kube_proxy: bool
) -> Exception | None:
    """Write into a report what is found, and gone unless it is a dry run; return what made it stop half-way."""
    from pointsman.agent.startup import AgentError, check_rights, check_sysctl_root  # noqa: PLC0415 (as above)
    from pointsman.dataplane.protocol import DataplaneError  # noqa: PLC0415 (as above)

    try:
        check_sysctl_root(sysctl_root)
        check_rights()
        for each in modes:
            report.sections.append(_clean(kernel, each, dry_run=report.dry_run))
        if kube_proxy:
            report.sections.append(_clean_kube_proxy(dry_run=report.dry_run))
    except (AgentError, DataplaneError, OSError) as error:
        return error
    report.complete = True
    return None


def _look_again(kernel: Kernel, modes: list[str], report: Report, *, kube_proxy: bool) -> None:
    """Tell of what may bring everything back, and of what is still there.

    Raises:
        typer.Exit: something of a mode could not be removed, or is there again.
    """
    warnings = list(_warnings(with_agent=bool(modes), with_kube_proxy=kube_proxy))
    for warning in warnings:
        _tell(warning)
    if not report.dry_run and not warnings:
        _check(kernel, modes)
    _check_legacy(modes)
    if any(section.kept for section in report.sections if section.owner != _KUBE_PROXY):
        raise typer.Exit(1)


def _check_legacy(modes: list[str]) -> None:
    """Tell of tables of the legacy iptables that nobody here can list."""
    from pointsman.dataplane.leftovers import legacy_is_unseen  # noqa: PLC0415 (as above)

    # Of the other variant nf_tables tell whether something of ours is there.
    if _IPTABLES in modes and legacy_is_unseen():
        _tell(_UNSEEN)


def _tell(message: str) -> None:
    typer.echo(f"pointsman cleanup: {message}", err=True)


def answers(host: str, port: int) -> bool:
    """Tell whether an HTTP server answers for ``/livez``, whatever it says."""
    return _status(host, port, "/livez") is not None


def answers_as_kube_proxy(host: str, port: int) -> bool:
    """Tell whether kube-proxy's metrics are there: an agent of ours, which has the same port, knows one path more."""
    return _status(host, port, "/proxyMode") == HTTPStatus.OK and (
        _status(host, port, "/connections") == HTTPStatus.NOT_FOUND
    )


def _status(host: str, port: int, path: str) -> int | None:
    """Ask an HTTP server; None when none answers."""
    from http.client import HTTPConnection, HTTPException  # noqa: PLC0415 (as above)

    connection = HTTPConnection(host, port, timeout=_PATIENCE)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()


def processes(name: str, proc: Path = _PROC) -> list[int]:
    """Return the processes of a name that run in this network namespace, as far as can be seen."""
    try:
        own = (proc / "self/ns/net").stat().st_ino
    except OSError:
        return []
    return sorted(int(path.name) for path in proc.glob("[0-9]*") if _is_called(path, name, own))


def _is_called(path: Path, name: str, namespace: int) -> bool:
    try:
        return (path / "comm").read_text("utf-8").strip() == name and (path / "ns/net").stat().st_ino == namespace
    except OSError:
        return False  # it has ended, or is not ours to look at


def _modes(kernel: Kernel, mode: str, *, kube_proxy: bool) -> list[str]:
    known = list(kernel.dataplanes)
    wanted = mode or ("" if kube_proxy else "all")
    if wanted in {"all", ""}:
        return known if wanted else []
    if wanted not in known:
        raise typer.BadParameter(f"{mode!r}: write one of all, {', '.join(known)}", param_hint="--mode")
    return [wanted]


def _held(kernel: Kernel, mode: str) -> list[Leftover]:
    """Return what a mode holds; of one that is not this package's own nobody knows, so that it is asked to clean up."""
    from pointsman.dataplane.leftovers import Leftover, held_by  # noqa: PLC0415 (as above)

    found = held_by(mode)
    if found is None:
        return [Leftover("whatever", f"its own package ({mode}) finds")] if kernel.traces(mode) else []
    return found


def _clean(kernel: Kernel, mode: str, *, dry_run: bool) -> Section:
    from pointsman.cli.cleanup_text import Section  # noqa: PLC0415 (as above)

    found = _held(kernel, mode)
    if any(not each.kept for each in found) and not dry_run:
        dataplane = kernel.dataplanes[mode]()
        try:
            dataplane.cleanup()
        finally:
            dataplane.close()
    return Section(mode, tuple(found))


def _clean_kube_proxy(*, dry_run: bool) -> Section:
    from pointsman.cli.cleanup_text import Section  # noqa: PLC0415 (as above)
    from pointsman.dataplane.leftovers import KubeProxy  # noqa: PLC0415 (as above)

    left = KubeProxy()
    try:
        return Section(_KUBE_PROXY, tuple(left.find() if dry_run else left.remove()))
    finally:
        left.close()


def _check(kernel: Kernel, modes: list[str]) -> None:
    """Look again.

    Raises:
        typer.Exit: something is still there, or there again.
    """
    from pointsman.dataplane.leftovers import is_known  # noqa: PLC0415 (as above)

    staying = {mode: held for mode in modes if is_known(mode) and (held := _movable(_held(kernel, mode)))}
    for mode, held in staying.items():
        names = ", ".join(f"{each.kind} {each.name}".strip() for each in held)
        _tell(f"mode {mode} has still, or again: {names}; does an agent run?")
    if staying:
        raise typer.Exit(1)


def _movable(found: list[Leftover]) -> list[Leftover]:
    """Leave out what was said to stay."""
    return [each for each in found if not each.kept]


def _warnings(*, with_agent: bool, with_kube_proxy: bool) -> Iterator[str]:
    if with_kube_proxy:
        # From a Pod the node's processes are not seen, but its ports are.
        if running := processes(_KUBE_PROXY):
            yield _RUNNING_KUBE_PROXY.format(f"process {', '.join(map(str, running))}")
        elif answers_as_kube_proxy(*_METRICS):
            yield _RUNNING_KUBE_PROXY.format("http://{}:{} answers as it does".format(*_METRICS))
    if with_agent and answers(*_LIVEZ):
        yield _RUNNING.format(*_LIVEZ)


def _show(report: Report, output: str) -> None:
    from pointsman.cli.cleanup_text import as_document, text  # noqa: PLC0415 (as above)

    if output == "json":
        show_json(as_document(report))
    else:
        sys.stdout.write(text(report))
