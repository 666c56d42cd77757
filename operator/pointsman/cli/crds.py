"""``pointsman crds``: the custom resources of this release, to read or into a cluster."""

from __future__ import annotations

from typing import Annotated

import typer

from pointsman.cli.access import Context, InCluster, Kubeconfig, Server, Timeout, access_of
from pointsman.cli.output import fail


def command(
    *,
    apply: Annotated[
        bool, typer.Option("--apply", help="Write them into the cluster that --kubeconfig or --in-cluster names.")
    ] = False,
    kubeconfig: Kubeconfig = None,
    in_cluster: InCluster = False,
    context: Context = None,
    server: Server = None,
    timeout: Timeout = 60.0,
) -> None:
    """Print the CustomResourceDefinitions (for `kubectl apply --server-side -f -`), or write them with --apply.

    --apply is a server-side apply, and ends when the API server serves them; the exit status is 1 when that is not so.
    """
    if not apply:
        if kubeconfig is not None or in_cluster or context is not None or server is not None:
            raise typer.BadParameter("an API server is asked with --apply alone; add it, or leave the others out")
        from pointsman.api.crds import files  # noqa: PLC0415 (`pointsman --help` needs none of it)

        typer.echo("---\n".join(files().values()), nl=False)
        return
    access = access_of(kubeconfig, context, server, in_cluster=in_cluster)
    from pointsman.install.patience import InstallError  # noqa: PLC0415 (as above)
    from pointsman.install.run import install_crds  # noqa: PLC0415 (as above)

    try:
        install_crds(access, timeout, typer.echo)
    except InstallError as error:
        fail("crds", error)
