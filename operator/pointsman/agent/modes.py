"""Which mode is in force on a node, and why; pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pointsman.api.names import MODES
from pointsman.api.schedulers import schedulers_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pointsman.api.names import Mode
    from pointsman.dataplane.protocol import Support


class NoModeError(Exception):
    """The node supports no mode at all; the message says of each one why, with the remedy."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The mode for a node.

    Attributes:
        mode: the one to have in force.
        wanted: the one that the configuration asks for.
        schedulers: those that the node has in this mode.
        why: why the wanted one and each fallback before this one are not in force, with the remedies; "" when it is
            the wanted one.
    """

    mode: Mode
    wanted: Mode
    schedulers: tuple[str, ...] = ()
    why: str = ""

    @property
    def is_best(self) -> bool:
        """Whether nothing better could come: the wanted mode, with all of its schedulers."""
        return self.mode == self.wanted and set(schedulers_of(self.mode)) <= set(self.schedulers)


def choose(wanted: Mode, fallbacks: Iterable[Mode], support: Callable[[Mode], Support]) -> Choice:
    """Choose the first mode that the node supports: the wanted one, else a fallback, else whatever it has.

    A scheduler that the kernel lacks is no reason to pass a mode over.

    Args:
        wanted: as the configuration says.
        fallbacks: those in force (`NodeConfiguration.fallback_modes_in_force`), in their order.
        support: asks the node; it is not asked of modes behind the one that is chosen.

    Raises:
        NoModeError: the node supports none.
    """
    passed_over: list[str] = []
    for mode in dict.fromkeys((wanted, *fallbacks, *MODES)):
        found = support(mode)
        if found.available:
            return Choice(mode, wanted, found.schedulers, "; ".join(passed_over))
        passed_over.append(f"{mode}: {found.reason}")
    raise NoModeError(f"no mode works on this node: {'; '.join(passed_over)}")


def why_not_installed(mode: Mode) -> str:
    """Say of a mode that nobody can open here, as only one that somebody else made can be, why and what to do."""
    return f"no dataplane {mode} is installed on this node; pip install the package that has it into the agents' image"
