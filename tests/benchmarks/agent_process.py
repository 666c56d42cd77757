"""The agent as a process that is measured from outside: when it is ready, how much memory it takes, what it logs."""

from __future__ import annotations

import http.client
import re
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Final, Self

import usage
from objects import NODE_NAME

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

_PORT: Final = 10256
_POLL: Final = 0.01
"""Seconds between two looks at the agent's log."""
_PATIENCE: Final = 300.0
_FULL_SYNC: Final = re.compile(r"full sync in ([\d.]+) ms: (\d+) elements added, (\d+) removed")


class AgentProcess:
    """``pointsman agent`` on a directory, in the namespace of its maker; a context manager that stops it.

    Attributes:
        seconds: from just before the process was made until /healthz answered 200, which it does only when
            everything is in the kernel.
    """

    def __init__(self, manifests: Path, log: Path) -> None:
        self._log = log
        command = [sys.executable, "-m", "pointsman", "agent", "--manifests", str(manifests)]
        command += ["--node-name", NODE_NAME, "--healthz-address", f"127.0.0.1:{_PORT}"]
        self._begun = time.perf_counter()
        with log.open("wb") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=output)
        self.seconds = 0.0

    def __enter__(self) -> Self:
        try:
            self._wait()
        except BaseException:
            self._process.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(60)

    def memory(self) -> tuple[float, float]:
        """Return MiB of resident memory, now and at its highest."""
        time.sleep(0.5)  # what the agent gives back after its first sync is given back by then
        return usage.memory(self._process.pid)

    def first_sync(self) -> tuple[float, int, int]:
        """Return what the agent logged of its first sync: seconds, elements added, elements removed."""
        match = _FULL_SYNC.search(self._log.read_text())
        if match is None:
            raise RuntimeError(f"the agent logged no full sync:\n{self._log.read_text()}")
        return float(match[1]) / 1000, int(match[2]), int(match[3])

    def _wait(self) -> None:
        # /healthz is asked only when the log says that it is near: each request costs the agent a millisecond or two.
        while not (_FULL_SYNC.search(self._log.read_text()) and _healthy()):
            if self._process.poll() is not None:
                raise RuntimeError(f"the agent ended with status {self._process.returncode}:\n{self._log.read_text()}")
            if time.perf_counter() - self._begun > _PATIENCE:
                raise RuntimeError(f"the agent was not ready after {_PATIENCE:.0f} s:\n{self._log.read_text()}")
            time.sleep(_POLL)
        self.seconds = time.perf_counter() - self._begun


def _healthy() -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", _PORT, timeout=10)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == http.client.OK
    except OSError:
        return False
    finally:
        connection.close()
