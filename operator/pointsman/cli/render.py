"""``pointsman render``: what the agent would load into the kernel, for reading."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from pointsman.cli.loading import ConfigFile, Files, LoadError, MoreFiles, NodeName, load, report
from pointsman.cli.output import fail

if TYPE_CHECKING:
    from pointsman.policy.planner import Planner

_WRITTEN: Final = ("nftables", "ipvs", "iptables", "userspace")


def command(
    more: MoreFiles = None,
    *,
    filename: Files,
    node_name: NodeName,
    mode: Annotated[
        Literal["nftables", "ipvs", "iptables", "userspace"] | None,
        typer.Option(help="The dataplane to write for; without it the one that the ProxyConfig asks for."),
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Print what the agent would load on a node: a script for `nft -f -`, or for ipvs and iptables a shell script.

    The shell script has the input of `nft -f -` and of `ipvsadm --restore`, or that of `iptables-restore` and of
    `ip6tables-restore`. For userspace it is the rules that lead to the agent's proxy, as a script for `nft -f -`;
    nobody answers there without the agent.

    Problems with the manifests go to standard error. The exit status is 0 all the same, as the agent would go on with
    the rest; it is 1 when a file or all objects cannot be read.
    """
    try:
        planner, problems = load([*filename, *(more or ())], node_name, config, mode=mode)
    except LoadError as error:
        fail("render", error)
    report(problems)
    if planner.mode not in _WRITTEN:
        typer.echo(
            f"pointsman render: mode {planner.mode} is not there yet; --mode takes {', '.join(_WRITTEN)}", err=True
        )
        raise typer.Exit(1)
    typer.echo(_script(planner), nl=False)


def _script(planner: Planner) -> str:
    # `pointsman --help` needs none of it.
    from pointsman.dataplane import iptables, ipvs, nftables, userspace  # noqa: PLC0415

    if planner.mode == "iptables":
        return iptables.render(planner.plan)
    if planner.mode == "ipvs":
        return ipvs.render(planner.plan, planner.cluster.addresses)
    if planner.mode == "userspace":
        return userspace.render(planner.plan)
    return nftables.render(planner.plan)
