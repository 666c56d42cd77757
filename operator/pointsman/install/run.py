"""Each piece of work as one call that blocks until it is done."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from pointsman.api import crds
from pointsman.install.crds import apply_crds
from pointsman.install.patience import InstallError, Patience
from pointsman.install.uninstall import uninstall
from pointsman.process.clock import SystemClock
from pointsman.sources.apiserver.client import connect
from pointsman.sources.protocol import SourceError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pointsman.install.patience import Requests
    from pointsman.sources.apiserver.access import Access


def install_crds(access: Access, seconds: float, say: Callable[[str], None]) -> None:
    """Write the CustomResourceDefinitions of this release, and wait until they are served.

    Args:
        access: how to get at the API server.
        seconds: how much time there is.
        say: told how it goes.

    Raises:
        InstallError: it was not done.
    """
    _run(access, seconds, say, lambda client, patience: apply_crds(client, crds.documents(), patience, say))


def uninstall_agents(access: Access, namespace: str, name: str, seconds: float, say: Callable[[str], None]) -> None:
    """Delete the agents' DaemonSet, and wait until all agents are gone.

    Args:
        access: how to get at the API server.
        namespace: of the DaemonSet.
        name: of the DaemonSet.
        seconds: how much time there is.
        say: told how it goes.

    Raises:
        InstallError: agents are left, or nothing was done.
    """
    _run(access, seconds, say, lambda client, patience: uninstall(client, namespace, name, patience, say))


def _run(
    access: Access,
    seconds: float,
    say: Callable[[str], None],
    work: Callable[[Requests, Patience], Awaitable[None]],
) -> None:
    async def connected() -> None:
        async with connect(access) as client:
            await work(client, Patience(SystemClock(), seconds, say))

    try:
        asyncio.run(connected())
    except SourceError as error:
        raise InstallError(str(error)) from error
    except msgspec.DecodeError as error:
        raise InstallError(f"what answers is no Kubernetes API server ({error}); name one by --server") from error
