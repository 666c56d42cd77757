"""Running ``iptables-save`` and ``iptables-restore``, and understanding what they complain about."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from pointsman.dataplane.iptables.variant import HINTS, VARIANTS, Look, Variant, choose, look_at
from pointsman.dataplane.nftables.presence import has_chain
from pointsman.dataplane.protocol import DataplaneError
from pointsman.model.plan import FAMILIES, IPV4, IPV6

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pointsman.model.plan import Family

LOCK_SECONDS: Final = 5
"""How long the legacy variant waits for the lock of other programs (`/run/xtables.lock`)."""
TRIAL: Final = "POINTSMAN-TRIAL"
"""A chain that nothing leads to, in which rules are tried."""

_TIMEOUT: Final = 300.0
"""Seconds after which a process is taken for hung."""
_SEARCHED: Final = "/usr/sbin:/sbin:/usr/local/sbin"
"""Where the programs are, besides PATH: a plain user's PATH lacks these."""
_COMMANDS: Final = {IPV4: "iptables", IPV6: "ip6tables"}
_LINE: Final = re.compile(r"\bline:? (\d+)")
_NOISE: Final = re.compile(
    r"Try `.*|Error occurred at line: \d+|^ip6?tables(?:-nft|-legacy)?-restore[^:]*: *", re.MULTILINE
)
_LEGACY_TABLES: Final = {IPV4: "ip_tables_names", IPV6: "ip6_tables_names"}
_PROC_NET: Final = Path("/proc/thread-self/net")
_LOCKED: Final = 4
"""The exit status when the lock of another program was not free in time (`RESOURCE_PROBLEM`)."""


class Done(msgspec.Struct, frozen=True):
    """What a process left behind: exit status, standard output, standard error."""

    status: int
    output: str
    errors: str


class Failure(msgspec.Struct, frozen=True):
    """What ``iptables-restore`` did not take.

    Attributes:
        line: its number in the input, from 1; 0 when it is not told.
        text: the program's own words, on one line.
        is_final: all of the section was read: the kernel refused, and the line is that of ``COMMIT``.
    """

    line: int
    text: str
    is_final: bool = False


class Runner(Protocol):
    """Runs a program, with text on its standard input, in the network namespace of the calling thread."""

    def __call__(self, command: Sequence[str], text: str = "") -> Done:
        """Run a program to its end.

        Raises:
            DataplaneError: it is not there, or it does not end.
        """
        ...


def run(command: Sequence[str], text: str = "") -> Done:
    """Run a program to its end; see `Runner`."""
    try:
        done = subprocess.run(  # noqa: S603 - fixed commands
            command,
            input=text,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired as error:
        raise DataplaneError(f"{' '.join(command)} has not ended after {_TIMEOUT:.0f} s and was killed") from error
    except OSError as error:
        raise DataplaneError(f"{command[0]} can't be run: {error.strerror}") from error
    return Done(done.returncode, done.stdout, done.stderr)


class Tools:
    """The programs of one variant.

    Args:
        variant: which one.
        runner: runs them.
    """

    def __init__(self, variant: Variant, runner: Runner = run) -> None:
        self.variant = variant
        self._run = runner
        self._program = _find(f"xtables-{variant}-multi")

    @property
    def is_installed(self) -> bool:
        """Whether the programs are there."""
        return self._program is not None

    def save(self, family: Family, *, counters: bool = False) -> str:
        """Read all tables of a family.

        Raises:
            DataplaneError: they can't be read.
        """
        options = ["-c"] if counters else []
        done = self._run([self._need(), f"{_COMMANDS[family]}-save", *options])
        if done.status:
            raise DataplaneError(f"{self._name(family)}-save: {_words(done.errors) or f'status {done.status}'}")
        return done.output

    def restore(self, family: Family, text: str) -> Failure | None:
        """Bring text into the kernel, and leave alone what it does not name.

        Each section is all or nothing: those before the one that fails are in force.

        Returns:
            What was refused, or None.

        Raises:
            DataplaneError: another program holds the lock.
        """
        command = [self._need(), f"{_COMMANDS[family]}-restore", "--noflush", "-w", str(LOCK_SECONDS)]
        done = self._run(command, text)
        if not done.status:
            return None
        if done.status == _LOCKED and "lock" in done.errors:
            raise DataplaneError(
                f"another program has held the lock of {self._name(family)} for {LOCK_SECONDS} s "
                f"({_words(done.errors)}); see who has /run/xtables.lock open (lsof /run/xtables.lock)"
            )
        return failure_in(done, text)

    def is_used(self, family: Family) -> bool:
        """Tell whether the kernel has tables of this variant: asking the legacy one for a table makes it."""
        if self.variant == "nft":
            return True
        try:
            return bool((_PROC_NET / _LEGACY_TABLES[family]).read_text("ascii").strip())
        except OSError:
            return False

    def _need(self) -> str:
        if self._program is None:
            raise DataplaneError(f"xtables-{self.variant}-multi is not installed (Debian: the package iptables)")
        return self._program

    def _name(self, family: Family) -> str:
        return f"{_COMMANDS[family]} ({self.variant})"


def detect(runner: Runner = run) -> Tools | None:
    """Find the variant that the node uses (see `variant`).

    Returns:
        Its programs; None where no iptables is installed.
    """
    tools: dict[Variant, Tools] = {variant: Tools(variant, runner) for variant in VARIANTS}
    if tools["nft"].is_installed and any(has_chain(family, "mangle", hint) for family in FAMILIES for hint in HINTS):
        return tools["nft"]  # and thousands of rules need not be read
    variant = choose(_look(tools["nft"]), _look(tools["legacy"]), _default(runner))
    return tools[variant] if variant is not None else None


def failure_in(done: Done, text: str) -> Failure:
    """Understand what ``iptables-restore`` complains about.

    Args:
        done: the process.
        text: what it was given.
    """
    numbers = [int(number) for number in _LINE.findall(done.errors)]
    line = numbers[0] if numbers else 0
    lines = text.splitlines()
    is_final = 0 < line <= len(lines) and lines[line - 1] == "COMMIT"
    return Failure(line, _words(done.errors) or f"exit status {done.status}", is_final)


def find_culprit(tools: Tools, family: Family, text: str, commit: int) -> int:
    """Find the rule because of which the kernel refused a section, where the program does not tell.

    Half of the rules is tried in a chain that nothing leads to, then half of the half that was refused, and so on.

    Args:
        tools: the programs.
        family: address family.
        text: what was refused.
        commit: the number of the section's last line.

    Returns:
        The line's number; 0 when each rule by itself is taken.
    """
    lines = text.splitlines()[:commit]
    start = max(number for number, line in enumerate(lines) if line.startswith("*"))
    table = lines[start]
    rules = [
        (number, trial)
        for number, line in enumerate(lines[start:], start + 1)
        if line.startswith(("-A ", "-I ")) and (trial := _trial(line))
    ]
    try:
        if not _refuses(tools, family, table, [trial for _, trial in rules]):
            return 0
        while len(rules) > 1:
            half = rules[: len(rules) // 2]
            refused = _refuses(tools, family, table, [trial for _, trial in half])
            rules = half if refused else rules[len(rules) // 2 :]
    finally:
        tools.restore(family, f"{table}\n:{TRIAL} - [0:0]\n-X {TRIAL}\nCOMMIT\n")
    return rules[0][0] if rules else 0


def refused(tools: Tools, family: Family, table: str, rules: Iterable[str]) -> list[str]:
    """Try rules one by one in a chain that nothing leads to.

    Args:
        tools: the programs.
        family: address family.
        table: such as ``nat``.
        rules: each without its chain, as ``-m comment --comment x -j RETURN``.

    Returns:
        Those that the kernel, or the program, does not know.
    """
    wanted = [f"-A {TRIAL} {rule}" for rule in rules]
    try:
        if not _refuses(tools, family, f"*{table}", wanted):
            return []
        return [rule.split(" ", 2)[2] for rule in wanted if _refuses(tools, family, f"*{table}", [rule])]
    finally:
        tools.restore(family, f"*{table}\n:{TRIAL} - [0:0]\n-X {TRIAL}\nCOMMIT\n")


def _refuses(tools: Tools, family: Family, table: str, rules: list[str]) -> bool:
    text = "\n".join([table, f":{TRIAL} - [0:0]", *rules, "COMMIT", ""])
    return tools.restore(family, text) is not None


def _trial(line: str) -> str:
    """Put a rule into the chain for trials; one that leads to a chain returns there."""
    _, _, rest = line.split(" ", 2)
    first, _, behind = rest.partition(" ")
    rest = behind if first.isdecimal() else rest
    head, dash, target = rest.rpartition(" -j ")
    if dash and re.match(r"(?:KUBE|POINTSMAN)-", target):
        rest = f"{head} -j RETURN"
    return f"-A {TRIAL} {rest}"


def _look(tools: Tools) -> Look:
    if not tools.is_installed:
        return Look(is_installed=False)
    listings = []
    for family in FAMILIES:
        try:
            listings += [tools.save(family)] if tools.is_used(family) else []
        except DataplaneError:
            if tools.variant == "legacy":
                return Look(is_installed=True, is_readable=False)
    return look_at(listings)


def _default(runner: Runner) -> Variant:
    """Find what the command ``iptables`` is."""
    try:
        told = runner([_find("iptables") or "iptables", "--version"]).output
    except DataplaneError:
        return "nft"
    return "legacy" if "legacy" in told else "nft"


def _find(program: str) -> str | None:
    return shutil.which(program) or shutil.which(program, path=_SEARCHED)


def _words(errors: str) -> str:
    return " ".join(_NOISE.sub(" ", errors).split())
