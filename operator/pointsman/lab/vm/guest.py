"""A guest that runs: started, listened to, ended."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from typing import IO, TYPE_CHECKING, Final, Self

from pointsman.lab import namespaces
from pointsman.lab.namespaces import LabError
from pointsman.lab.vm import machine
from pointsman.lab.vm.command import JOB, UP, boot_command

if TYPE_CHECKING:
    from pathlib import Path

    from pointsman.lab.vm.command import Job
    from pointsman.lab.vm.kernel import Kernel

BOOT_PATIENCE: Final = 300.0
"""Seconds that a guest may take until its job starts: 15 on a machine that does nothing else."""

LOST: Final = 255
"""Exit status where the guest ended before its job did (virtme-run's choice)."""

_STOP_PATIENCE: Final = 10.0
_LAST_LINES: Final = 50  # a panic with its registers and calls


class Guest:
    """One guest, from its boot to its end; a context manager.

    Its job's output comes from `read_line`. Reading has to go on for the guest to do so: its console is read meanwhile.
    """

    def __init__(self, kernel: Kernel, job: Job, place: Path) -> None:
        """Prepare a guest.

        Args:
            kernel: what to boot.
            job: what it runs.
            place: an empty directory for this guest alone. In it is `shared`, which the guest finds and leaves as it
                is: what it needs is put there before the start, its results are there in the end.
        """
        self.shared = place / "shared"
        self.shared.mkdir()
        self.console = place / "console.log"
        self._place = place
        self._kernel = kernel
        self._job = job
        self._text = b""
        self._selector = selectors.DefaultSelector()

    def __enter__(self) -> Self:
        """Start QEMU.

        Raises:
            LabError: virtme-run is not there.
        """
        (self.shared / JOB).write_text(self._job.script(), "utf-8")
        virtme = machine.find_virtme()
        self._process = subprocess.Popen(  # noqa: S603 - a fixed command
            boot_command(virtme, self._kernel, self.shared, self._job.limit),
            # Pipes, and one for each: QEMU opens its outputs anew, and in files they would overwrite each other.
            stdin=subprocess.PIPE,  # as long as it is open the guest knows that somebody waits for it
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self._place,
            env={**os.environ, "PATH": _search_path(virtme), "TMPDIR": str(self._place)},
            start_new_session=True,
        )
        for stream in (self._process.stdout, self._process.stderr):
            self._selector.register(_open(stream), selectors.EVENT_READ)
        return self

    def __exit__(self, *_: object) -> None:
        """End it, if it runs still; virtme-run and QEMU are a process group of their own."""
        self._signal(signal.SIGTERM)
        with contextlib.suppress(LabError):
            while self.read_line(_STOP_PATIENCE) is not None:
                pass
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._selector.close()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            _open(stream).close()

    def wait_until_up(self) -> str:
        """Wait until the job starts.

        Returns:
            What the guest says of it: "up after 12.3 s".

        Raises:
            LabError: it ended, or it takes too long; the message has the end of its console.
        """
        deadline = time.monotonic() + BOOT_PATIENCE
        try:
            while (line := self.read_line(deadline - time.monotonic())) is not None:
                if line.startswith(UP):
                    return line.partition(": ")[2]
        except LabError as error:
            raise LabError(f"the guest did not come up: {error}; {self.last_words()}") from None
        raise LabError(f"the guest ended before it was up; {self.last_words()}")

    def read_line(self, patience: float) -> str | None:
        """Read a line of the job's output, without its end; None when there are no more.

        Args:
            patience: seconds to wait for it.

        Raises:
            LabError: it did not come in time.
        """
        deadline = time.monotonic() + patience
        while b"\n" not in self._text:
            piece = self._read(deadline)
            if not piece:
                last, self._text = self._text, b""
                return last.decode("utf-8", "replace") or None
            self._text += piece
        line, _, self._text = self._text.partition(b"\n")
        return line.decode("utf-8", "replace").rstrip("\r")

    def relay(self, sink: IO[bytes]) -> None:
        """Pass the job's output on, as it comes, until it ends.

        Raises:
            LabError: it did not end, though the job's limit is over.
        """
        deadline = time.monotonic() + self._job.limit + _STOP_PATIENCE * 2
        piece, self._text = self._text, b""
        while piece or (piece := self._read(deadline)):
            sink.write(piece)
            sink.flush()
            piece = b""

    def wait(self) -> int:
        """Return the job's exit status, once the output has ended; `LOST` when the guest died before it had one."""
        return self._process.wait()

    def last_words(self) -> str:
        """Return the end of the console, for messages."""
        lines = self.console.read_text("utf-8", "replace").splitlines() if self.console.exists() else []
        if not lines:
            return "its console is empty"
        return "the end of its console:\n" + "\n".join(lines[-_LAST_LINES:])

    def _read(self, deadline: float) -> bytes:
        """Wait for output of the job; empty at its end. What the console says meanwhile is kept."""
        output = _open(self._process.stdout)
        while self._selector.get_map():
            rest = deadline - time.monotonic()
            ready = self._selector.select(rest) if rest > 0 else []
            if not ready:
                raise LabError("the guest has been silent for too long")
            for key, _ in ready:
                piece = os.read(key.fd, 65536)
                if not piece:
                    self._selector.unregister(key.fileobj)
                elif key.fileobj is output:
                    return piece
                else:
                    self._keep(piece)
        return b""

    def _keep(self, piece: bytes) -> None:
        with self.console.open("ab") as console:
            console.write(piece.replace(b"\r", b""))

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


def _open(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:
        raise LabError("the guest was started without a pipe")
    return stream


def _search_path(virtme: Path) -> str:
    # virtme-run finds QEMU and busybox on PATH, and the lab's own programs for the system are not on a plain user's.
    return f"{virtme.parent}:{os.environ.get('PATH', os.defpath)}:{namespaces.SYSTEM_PATH}"
