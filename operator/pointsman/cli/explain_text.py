"""An explanation as text for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pointsman.model.address import joined
from pointsman.model.plan import NODE_PORT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman.policy.explain import Explanation
    from pointsman.policy.reasons import EndpointReason

_STYLES: Final = {"forwarded": "bold green", "rejected": "bold red", "dropped": "bold red", "untouched": "bold yellow"}
_CLIENTS: Final = {"pod": "a pod of this cluster", "node": "this node", "outside": "outside of the cluster"}


def lay_out(explanation: Explanation, console: Console | None = None) -> None:
    """Print an explanation to a terminal."""
    console = console or Console()
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column()
    for name, value in _facts(explanation):
        style = _STYLES[explanation.verdict] if name == "verdict" else ""
        facts.add_row(name, Text(value, style))
    console.print(facts)
    if not explanation.endpoints:
        return
    endpoints = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("", "endpoint", "node", "weight", "why"):
        endpoints.add_column(heading, no_wrap=heading != "why")
    for reason in explanation.endpoints:
        mark, style = ("->", "green") if reason.used else ("--", "dim")
        endpoints.add_row(mark, *(Text(cell, style) for cell in _cells(reason)))
    console.print()
    console.print(endpoints)


def plain_text(explanation: Explanation) -> str:
    """Write an explanation without any colour, one fact or endpoint a line, for pipes and logs."""
    lines = [f"{name:<11} {value}" for name, value in _facts(explanation)]
    for reason in explanation.endpoints:
        address, node, weight, why = _cells(reason)
        mark = "->" if reason.used else "--"
        share = f", weight {weight}" if weight else ""
        lines.append(f"  {mark} {address}  node {node}{share}: {why}")
    return "\n".join(lines)


def _facts(explanation: Explanation) -> Iterator[tuple[str, str]]:
    connection = explanation.connection
    yield "from", f"{connection.source} ({_CLIENTS[explanation.source_class]})"
    yield "to", f"{joined(connection.destination, connection.port)} {connection.protocol}"
    yield "verdict", explanation.verdict
    yield "why", explanation.why
    frontend = explanation.frontend
    if frontend is not None:
        address = "" if frontend.address == NODE_PORT else f" {frontend.address}, port"
        yield "Service", explanation.service_port
        yield "frontend", f"{explanation.address_kind}{address} {frontend.port}/{frontend.protocol}"
        yield "policy", f"{explanation.policy}: {explanation.policy_why}"
    if explanation.verdict == "forwarded":
        affinity = f"; the client stays with its endpoint for {explanation.affinity} s" if explanation.affinity else ""
        yield "scheduler", f"{explanation.scheduler}{affinity}"
        yield "masquerade", f"{explanation.masqueraded}: {explanation.masquerade_why}"
    for note in explanation.notes:
        yield "note", note


def _cells(reason: EndpointReason) -> tuple[str, str, str, str]:
    address = joined(reason.address, reason.port) if reason.port else reason.address
    return address, reason.node or "?", str(reason.weight) if reason.port else "", reason.why
