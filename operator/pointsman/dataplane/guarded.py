"""A dataplane that somebody else made, with a guard around it.

What is wrong with it is told like what the kernel refuses: the agent goes on, and another mode can take its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, cast

from pointsman.dataplane.protocol import Dataplane, DataplaneError, Support, Written

if TYPE_CHECKING:
    from collections.abc import Callable

_VERBS: Final = frozenset(name for name in vars(Dataplane) if not name.startswith("_"))
_ANSWERS: Final[dict[str, type]] = {
    "support": Support,
    "adopt": Written,
    "apply": Written,
    "carried": int,
    "own_endpoints": Mapping,
}
"""What the agent looks into at once."""


def guarded(mode: str, origin: str, factory: Callable[[], object]) -> Dataplane:
    """Open a dataplane that somebody else made.

    Args:
        mode: its name.
        origin: the package that it comes from, for people.
        factory: opens it.

    Raises:
        DataplaneError: it cannot be opened, or is no dataplane; the message says why.
    """
    who = f"the dataplane {mode} of {origin}"
    try:
        made = factory()
    except (DataplaneError, OSError):
        raise
    except Exception as error:
        raise DataplaneError(f"{who} cannot be opened: {_said(error)}") from error
    missing = sorted(verb for verb in _VERBS if not callable(getattr(made, verb, None)))
    if missing:
        raise DataplaneError(f"{who} lacks {', '.join(missing)}; derive it from pointsman.extending.PlainDataplane")
    return cast("Dataplane", _Guarded(mode, who, made))


class _Guarded:
    """A dataplane of which every call ends as the protocol says, whatever happens in it.

    Attributes:
        mode: the name by which it was found, whatever it says itself.
    """

    def __init__(self, mode: str, who: str, made: object) -> None:
        self.mode = mode
        self._who = who
        self._made = made

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the dataplane has
        found = getattr(self._made, name)
        if name not in _VERBS:
            return found

        def call(*arguments: object) -> object:
            try:
                answer = found(*arguments)
            except (DataplaneError, OSError):
                raise
            except Exception as error:
                raise DataplaneError(f"{self._who} failed to {name}: {_said(error)}") from error
            wanted = _ANSWERS.get(name, object)
            if not isinstance(answer, wanted):
                raise DataplaneError(f"{self._who}: {name} has to return {wanted.__name__}, and returned {answer!r}")
            return answer

        return call


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
