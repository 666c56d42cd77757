"""What has to become of connections from a host to an address: where they come out, and whom the endpoint sees."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import msgspec

from pointsman.lab.connections import Answered, Outcome, Refused, TimedOut, connect
from pointsman.lab.network import Host
from pointsman.model.plan import Transport

if TYPE_CHECKING:
    from collections.abc import Iterable

PATIENCE: Final = 0.3
"""Seconds of silence that count as dropped. A refusal (TCP reset, or ICMP error for UDP and SCTP) is heard at once."""

TRIES: Final = 40
"""So many connections reach all of three endpoints but once in 4 million times."""

Verdict = Literal["answered", "refused", "dropped"]


class Flow(msgspec.Struct, frozen=True):
    """Connections, and what has to become of them.

    Attributes:
        origin: the host that connects.
        address, port, protocol: where to.
        verdict: answered, refused or dropped.
        endpoints: who has to answer, each at least once, and nobody else; address and port.
        seen: the client's address as the endpoints see it.
        source: the origin's address to come from; "" leaves it to the kernel.
    """

    origin: Host
    address: str
    port: int
    protocol: Transport
    verdict: Verdict
    endpoints: frozenset[tuple[str, int]] = frozenset()
    seen: str = ""
    source: str = ""

    def __str__(self) -> str:
        return f"{self.origin.name} to {self.address} port {self.port}/{self.protocol}"

    def tries(self) -> int:
        """How often to connect: often enough to meet every endpoint."""
        if self.verdict == "answered":
            return TRIES if len(self.endpoints) > 1 else 4
        return 2 if self.verdict == "refused" else 1

    def connect(self) -> list[Outcome]:
        """Connect that often; a connection that should have been answered and was not is the last one."""
        timeout = PATIENCE if self.verdict == "dropped" else None
        found: list[Outcome] = []
        for _ in range(self.tries()):
            found.append(
                connect(self.origin, self.address, self.port, self.protocol, source=self.source, timeout=timeout)
            )
            if self.verdict == "answered" and not isinstance(found[-1], Answered):
                break
        return found

    def check(self) -> None:
        """Connect, and compare what came of it."""
        check(self, self.connect())

    def answers(self) -> list[Answered]:
        """Connect, and return the answers; they have to come from every endpoint, but may see anybody."""
        return check_answers(self, self.connect())


def check(flow: Flow, outcomes: Iterable[Outcome]) -> None:
    """Compare what became of connections with what should have."""
    found = list(outcomes)
    if flow.verdict == "dropped":
        assert found == [TimedOut()] * len(found), f"not dropped: {found}: {flow}"
    elif flow.verdict == "refused":
        assert all(isinstance(outcome, Refused) for outcome in found), f"not refused: {found}: {flow}"
    else:
        seen = {answer.seen[0] for answer in check_answers(flow, found)}
        assert seen == {flow.seen}, f"seen as {sorted(seen)}, not {flow.seen}: {flow}"


def check_answers(flow: Flow, outcomes: list[Outcome]) -> list[Answered]:
    """Return the answers, having compared who gave them with who should have."""
    answers = [outcome for outcome in outcomes if isinstance(outcome, Answered)]
    others = [outcome for outcome in outcomes if not isinstance(outcome, Answered)]
    assert not others, f"not answered: {others}: {flow}"
    answered = {answer.at for answer in answers}
    assert answered == flow.endpoints, f"answered by {sorted(answered)}, not {sorted(flow.endpoints)}: {flow}"
    return answers
