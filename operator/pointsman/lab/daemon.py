"""A long-running program in a namespace, with its log."""

from __future__ import annotations

import signal
import subprocess
import time
from typing import TYPE_CHECKING, Final

from pointsman.lab.namespaces import LabError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from pointsman.lab.namespaces import Namespace

_LAST_LINES: Final = 15
_PAUSE: Final = 0.02
_GRACE: Final = 30.0
"""Seconds that a program gets to end after SIGTERM."""


class Daemon:
    """A program that can be started, killed and started again.

    Attributes:
        name: what messages call it.
        command: what is run at the next start.
        log: where its output goes; a new start appends.
    """

    def __init__(
        self,
        name: str,
        namespace: Namespace,
        command: Sequence[str],
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.command = list(command)
        self.log = log
        self._namespace = namespace
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether it was started, and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Its process ID.

        Raises:
            LabError: it was not started.
        """
        if self._process is None:
            raise LabError(f"{self.name} is not running")
        return self._process.pid

    def start(self) -> None:
        """Start it."""
        with self.log.open("ab") as log:
            self._process = self._namespace.start(self.command, output=log.fileno(), environment=self._environment)

    def kill(self) -> None:
        """End it with SIGKILL: it has no chance to clean up."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it with SIGTERM, and with SIGKILL when that is not heard."""
        self._end(signal.SIGTERM)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, such as SIGSTOP."""
        if self._process is not None:
            self._process.send_signal(number)

    def release(self) -> int:
        """Let it outlive this process: nobody here waits for it any more.

        Returns:
            Its process ID.

        Raises:
            LabError: it was not started.
        """
        pid = self.pid
        if self._process is not None:
            self._process.returncode = 0
        return pid

    def wait_until(self, done: Callable[[], bool], problem: str, *, patience: float, pause: float = _PAUSE) -> None:
        """Wait until it has done something.

        Args:
            done: tells whether it has.
            problem: what to say of it when it has not: ``is not ready``.
            patience: seconds.
            pause: seconds between two looks.

        Raises:
            LabError: it ended, or it has not done so in time; the message holds the end of its log.
        """
        deadline = time.monotonic() + patience
        while not done():
            ended = self._process is not None and self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                status = self._process.returncode if self._process else None
                raise self.failed(f"ended with status {status}" if ended else f"{problem} after {patience:g} s")
            time.sleep(pause)

    def failed(self, what: str) -> LabError:
        """Make an error that says what is wrong with it, and how its log ends."""
        said = self.log.read_text("utf-8", "replace").strip().splitlines()[-_LAST_LINES:] if self.log.exists() else []
        return LabError("\n".join([f"{self.name} {what}; its log ({self.log}) ends with:", *said]))

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
