"""``python -m pointsman.lab.vm COMMAND…``: run a command in a guest whose kernel has IPVS, as root.

The guest has this machine's files. What the command writes is gone when it ends, but for what it writes to
/run/pointsman: ``--results DIRECTORY`` keeps that.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from pointsman.lab.namespaces import LabError
from pointsman.lab.vm import kernel, machine
from pointsman.lab.vm.command import JOB, SHARED, Job
from pointsman.lab.vm.guest import LOST, Guest

_LIMIT = 3600


def main(arguments: list[str]) -> int:
    """Boot a guest, run the command in it, and pass its output on.

    Returns:
        The command's exit status; 1 when there is no guest.
    """
    options = _parser().parse_args(arguments)
    if options.command[:1] == ["--"]:
        del options.command[0]
    try:
        machine.check()
        chosen = kernel.provide(_say)
        if options.command:
            return _run(options, chosen)
        _say(f"kernel {chosen.release} is there: {chosen.root}")
    except LabError as error:
        _say(str(error))
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _run(options: argparse.Namespace, chosen: kernel.Kernel) -> int:
    _say(f"kernel {chosen.release} boots, under software emulation")
    job = Job(tuple(options.command), Path.cwd(), {}, options.limit)
    with tempfile.TemporaryDirectory(prefix="pointsman-vm-") as place, Guest(chosen, job, Path(place)) as guest:
        _say(guest.wait_until_up())
        guest.relay(sys.stdout.buffer)
        if (status := guest.wait()) == LOST:
            _say(f"the guest may have ended before the command did; {guest.last_words()}")
        if options.results:
            shutil.copytree(guest.shared, options.results, dirs_exist_ok=True, ignore=shutil.ignore_patterns(JOB))
        return status


def _parser() -> argparse.ArgumentParser:
    program = "python -m pointsman.lab.vm"
    parser = argparse.ArgumentParser(program, description="Run a command as root in a guest whose kernel has IPVS.")
    parser.add_argument("--limit", type=int, default=_LIMIT, metavar="SECONDS", help="end the command after this time")
    parser.add_argument("--results", type=Path, metavar="DIRECTORY", help=f"gets what the command wrote to {SHARED}")
    words = "with its arguments; without one the kernel is only fetched"
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND", help=words)
    return parser


def _say(words: str) -> None:
    sys.stderr.write(f"vm: {words}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
