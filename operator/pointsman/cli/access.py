"""The options that say which API server, and as whom; the same for all that speak to one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pointsman.sources.apiserver.access import Access

Kubeconfig = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Kubeconfig file that says which API server to follow, and how.")
]
InCluster = Annotated[
    bool, typer.Option("--in-cluster", help="Follow the API server of the cluster that this Pod runs in.")
]
Context = Annotated[
    str | None, typer.Option(metavar="NAME", help="Context of the kubeconfig file; its current one by default.")
]
Server = Annotated[
    str | None, typer.Option(metavar="URL", help="Address of the API server, in place of the configured one.")
]

Timeout = Annotated[float, typer.Option(metavar="SECONDS", min=1, help="Seconds after which to give up.")]


def access_of(kubeconfig: Path | None, context: str | None, server: str | None, *, in_cluster: bool) -> Access:
    """Put the options together.

    Raises:
        typer.BadParameter: they do not name one API server.
    """
    if (kubeconfig is not None) + in_cluster != 1:
        raise typer.BadParameter("name one API server: --kubeconfig FILE or --in-cluster")
    if context is not None and kubeconfig is None:
        raise typer.BadParameter("--context is of a kubeconfig file; name one with --kubeconfig, or leave it out")
    from pointsman.sources.apiserver.access import Access  # noqa: PLC0415 (`pointsman --help` needs none of it)

    return Access(kubeconfig=kubeconfig, context=context, in_cluster=in_cluster, server=server)
