"""The end of an agent: the kernel keeps its rules, unless Pointsman is uninstalled."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from pointsman.agent.startup import AgentError
from pointsman.agent.state import forget
from pointsman.dataplane.protocol import DataplaneError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from pointsman.agent.owner import Verdict

_LOG: Final = logging.getLogger(__name__)


async def end(verdict: Verdict | None, clean_up: Callable[[], Awaitable[None]], state_dir: Path | None) -> bool:
    """Leave everything in force, or remove it; called when nothing is synced any more.

    Args:
        verdict: whether Pointsman is uninstalled; None where nobody asks.
        clean_up: removes everything from the kernel.
        state_dir: directory whose file goes, too.

    Returns:
        Whether everything was removed.

    Raises:
        AgentError: something could not be removed.
    """
    if verdict is None or not verdict.uninstalled:
        _LOG.info("stopping; %sthe kernel keeps its rules", f"{verdict.why}: " if verdict is not None else "")
        return False
    _LOG.info("stopping; %s: removing all that Pointsman put into this node's kernel", verdict.why)
    try:
        await clean_up()
        if state_dir is not None:
            await asyncio.to_thread(forget, state_dir)
    except (DataplaneError, OSError) as error:
        raise AgentError(f"cannot clean up ({error}); run `pointsman cleanup` on this node") from error
    _LOG.info("nothing of Pointsman is left in this node's kernel")
    return True
