"""The DaemonSet that the agent belongs to: does the agent end because Pointsman is uninstalled?

A DaemonSet's Pods get the same SIGTERM on an upgrade, at a restart and when the DaemonSet is deleted. Which of these it
is the API server knows, and it is asked; whatever leaves a doubt means that the rules stay.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from pointsman.agent.patience import ask
from pointsman.model.problems import Problem
from pointsman.sources.apiserver.client import ApiError, Unreachable
from pointsman.sources.protocol import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from pointsman.agent.writes import Writes
    from pointsman.process.clock import Clock

PATIENCE: Final = 12.0
"""Seconds for the answer at the end: the kubelet kills after 30 s, as a rule, and the clean-up has to come before."""
_RETRY: Final = 10.0
"""Seconds until the DaemonSet is looked for again."""


class Verdict(NamedTuple):
    """Whether Pointsman is uninstalled, and how we know; `why` is a sentence without its stop."""

    uninstalled: bool
    why: str


class _Metadata(msgspec.Struct, rename="camel"):
    uid: str
    deletion_timestamp: str | None = None


class _DaemonSet(msgspec.Struct):
    kind: str
    metadata: _Metadata


class Owner:
    """Knows the DaemonSet by its uid: one that has the same name and came later is another one.

    Args:
        client: of the API server.
        name: of the DaemonSet.
        namespace: of the DaemonSet.
        on_problems: told why the DaemonSet cannot be found, if so.
        clock: time.
        chance: for what agents shall not do at the same time.
    """

    def __init__(
        self,
        client: Writes,
        name: str,
        *,
        namespace: str,
        on_problems: Callable[[tuple[Problem, ...]], None],
        clock: Clock,
        chance: Random,
    ) -> None:
        self._client = client
        self._path = f"/apis/apps/v1/namespaces/{namespace}/daemonsets/{name}"
        self._title = f"DaemonSet {namespace}/{name}"
        self._on_problems = on_problems
        self._clock = clock
        self._chance = chance
        self._uid = ""

    async def run(self) -> None:
        """Look for the DaemonSet until it was seen once, then rest until cancelled."""
        never = asyncio.Event()
        while not self._uid:
            await self._look()
            await self._clock.wait(never, _RETRY * self._chance.uniform(0.5, 1.0))
        await self._clock.wait(never, None)

    async def verdict(self) -> Verdict:
        """Ask whether the DaemonSet is deleted; takes `PATIENCE` at the longest, and raises nothing."""
        try:
            found = await ask(self._read, self._clock, PATIENCE)
        except ApiError as error:
            return self._judge_refusal(error)
        except (Unreachable, SourceError, msgspec.DecodeError) as error:
            return Verdict(uninstalled=False, why=f"the API server could not be asked: {error}")
        except TimeoutError:
            return Verdict(uninstalled=False, why=f"the API server did not answer within {PATIENCE:g} s")
        return self._judge(found.metadata)

    async def _look(self) -> None:
        try:
            self._uid = (await self._read()).metadata.uid
        except ApiError as error:
            self._on_problems((self._problem(error),))
        except (Unreachable, SourceError, msgspec.DecodeError):
            return  # the source tells of it
        else:
            self._on_problems(())

    async def _read(self) -> _DaemonSet:
        return msgspec.json.decode(await self._client.get(self._path), type=_DaemonSet)

    def _judge(self, found: _Metadata) -> Verdict:
        if self._uid and found.uid != self._uid:
            return Verdict(uninstalled=False, why=f"another {self._title} has come in place of this agent's")
        if not found.deletion_timestamp:
            return Verdict(uninstalled=False, why=f"{self._title} is still there")
        return Verdict(uninstalled=True, why=f"{self._title} is being deleted")

    def _judge_refusal(self, error: ApiError) -> Verdict:
        if error.status != HTTPStatus.NOT_FOUND or error.reason != "NotFound":
            return Verdict(uninstalled=False, why=f"the API server does not tell of {self._title}: {error}")
        if not self._uid:
            return Verdict(uninstalled=False, why=f"this agent never saw a {self._title}")
        return Verdict(uninstalled=True, why=f"{self._title} is deleted")

    def _problem(self, error: ApiError) -> Problem:
        message = f"cannot be read: {error.message or error.reason or 'no reason given'} ({error.status})"
        remedy = "correct --clean-up-with or --namespace, or leave --clean-up-with out"
        if error.status in (HTTPStatus.FORBIDDEN, HTTPStatus.UNAUTHORIZED):
            remedy = "let the agent's ServiceAccount get daemonsets.apps of this name (RBAC)"
        return Problem("API server", self._title, "", message, remedy, "the clean-up when Pointsman is uninstalled")
