"""``pointsman lab``: a small cluster on this machine, shown with real connections."""

from __future__ import annotations

import signal
import sys
from pathlib import Path  # noqa: TC003 (typer reads the annotations)
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from pointsman.cli.output import Output  # noqa: TC001 (typer reads it)

if TYPE_CHECKING:
    from pointsman.cli.lab_view import View
    from pointsman.lab.cluster import Cluster
    from pointsman.lab.controlplane.cluster import LiveCluster
    from pointsman.lab.steps import Result, Watcher

_INTERRUPTED = 130


def command(
    *,
    manifests: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            exists=True,
            file_okay=False,
            help="Your own objects: pods are made for the endpoints in it, and every frontend is tried.",
        ),
    ] = None,
    cluster: Annotated[
        bool,
        typer.Option(
            "--cluster",
            help="A real API server with its controllers, the operator, and agents that follow it. Its programs are "
            "built with Go: about 12 minutes, once.",
        ),
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the lab up, and say how to look around.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Remove labs that were left up; do nothing else.")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="No colours, nothing that moves.")] = False,
    output: Output = "text",
) -> None:
    """Build a cluster of network namespaces, send real connections through its Services, and remove it.

    Exits with 0 when every connection came out as it has to. Needs root, or a system that lets plain users make
    namespaces of their own.
    """
    from pointsman.lab.namespaces import LabError  # noqa: PLC0415 (`pointsman --help` needs none of it)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    if cluster and manifests:
        raise typer.BadParameter("--cluster brings its own objects: change them with kubectl after --keep")
    try:
        good = (
            _remove()
            if remove
            else _show(manifests, of_cluster=cluster, keep=keep, plain=plain, as_json=output == "json")
        )
    except LabError as error:
        typer.echo(f"pointsman lab: {error}", err=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        typer.echo("pointsman lab: interrupted; everything is removed", err=True)
        raise typer.Exit(_INTERRUPTED) from None
    raise typer.Exit(0 if good else 1)


def _show(manifests: Path | None, *, of_cluster: bool, keep: bool, plain: bool, as_json: bool) -> bool:
    from pointsman.cli.lab_view import Silent, View  # noqa: PLC0415 (as above)
    from pointsman.lab import privileges, records  # noqa: PLC0415 (as above)

    view = View(plain=plain, stderr=as_json)
    if of_cluster:
        _build(view)
    privileges.acquire(sys.argv[1:])
    swept = records.sweep()
    if swept:
        view.note(f"removed what {len(swept)} interrupted labs had left")
    watcher = Silent() if as_json else view
    try:
        result = _run_cluster(watcher, view, keep=keep) if of_cluster else _run(watcher, view, manifests, keep=keep)
    finally:
        view.close()
    if as_json:
        import msgspec  # noqa: PLC0415 (as above)

        typer.echo(msgspec.json.encode(result).decode())
    else:
        view.verdict(result)
    return result.good


def _build(view: View) -> None:
    """Build the programs of a control plane; this needs the way to the outside that a lab's namespaces do not have."""
    from pointsman.lab.components.build import provide  # noqa: PLC0415 (as above)
    from pointsman.lab.controlplane.plane import PROGRAMS  # noqa: PLC0415 (as above)

    provide(PROGRAMS, view.note)


def _run(watcher: Watcher, view: View, manifests: Path | None, *, keep: bool) -> Result:
    from pointsman.cli import lab_hints  # noqa: PLC0415 (as above)
    from pointsman.lab.privileges import is_inside  # noqa: PLC0415 (as above)
    from pointsman.lab.tour import run_tour  # noqa: PLC0415 (as above)

    def leave_up(cluster: Cluster) -> None:
        view.look_around(lab_hints.of_manifests(cluster, inside=is_inside()))

    return run_tour(watcher, manifests=manifests, leave_up=leave_up if keep else None)


def _run_cluster(watcher: Watcher, view: View, *, keep: bool) -> Result:
    from pointsman.cli import lab_hints  # noqa: PLC0415 (as above)
    from pointsman.lab.controlplane.example import CLUSTER_IP, PORT  # noqa: PLC0415 (as above)
    from pointsman.lab.controlplane.tour import run_cluster_tour  # noqa: PLC0415 (as above)
    from pointsman.lab.privileges import is_inside  # noqa: PLC0415 (as above)

    def leave_up(cluster: LiveCluster) -> None:
        view.look_around(lab_hints.of_control_plane(cluster, f"{CLUSTER_IP}:{PORT}", inside=is_inside()))

    return run_cluster_tour(watcher, leave_up=leave_up if keep else None)


def _remove() -> bool:
    from pointsman.lab import records  # noqa: PLC0415 (as above)

    kept = records.kept()
    for lab in kept:
        records.remove(lab)
        typer.echo(f"removed {lab.prefix}*")
    swept = records.sweep()
    if not kept and not swept:
        typer.echo("there is no lab to remove")
    return True


def _leave(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt
