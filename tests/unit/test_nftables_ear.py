"""Who changed nf_tables, told by a kernel whose commits take their time: counted first, told later."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from pointsman.dataplane.netlink import u32
from pointsman.dataplane.nftables import ear
from pointsman.dataplane.nftables.ear import Ear

if TYPE_CHECKING:
    from collections.abc import Callable


class Kernel:
    """Counts commits, and tells of each when the next transaction may begin, or when it is asked to.

    Attributes:
        generation: how many commits there were.
        on_next_count: happens once, before somebody asks how many.
    """

    def __init__(self) -> None:
        self.generation = 7
        self.on_next_count: list[Callable[[], None]] = []
        self._untold = 0
        self._listens = False
        self._told = 0

    def commit(self) -> None:
        """Let another program's commit come so far that it counts."""
        self.generation += 1
        self._untold += 1

    def commit_of_ours(self) -> None:
        self.settle()
        self.generation += 1

    def settle(self) -> None:
        self._told += self._untold if self._listens else 0
        self._untold = 0

    def get(self, *_question: object) -> bytes:
        if self.on_next_count:
            self.on_next_count.pop()()
        return u32(1, self.generation)

    def listen(self) -> None:
        self._listens = True

    def pause(self) -> None:
        self._listens = False

    def heard(self) -> bool:
        heard, self._told = bool(self._told), 0
        return heard


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    for name in ("NftSocket", "NftMonitor"):
        monkeypatch.setattr(ear, name, lambda: made)
    return made


@pytest.fixture
def listening(kernel: Kernel) -> Ear:
    made = Ear(lambda _: kernel.heard())
    made.listen()
    return made


def test_what_we_do_is_no_disturbance(kernel: Kernel, listening: Ear) -> None:
    with listening.unheard():
        kernel.commit_of_ours()
    assert not listening.disturbed()


def test_a_commit_that_counts_already_is_heard_of_before_ours(kernel: Kernel, listening: Ear) -> None:
    kernel.commit()
    with listening.unheard():
        kernel.commit_of_ours()
    assert listening.disturbed()
    assert not listening.disturbed()


def test_a_commit_beside_ours_is_counted(kernel: Kernel, listening: Ear) -> None:
    with listening.unheard():
        kernel.commit()
        kernel.commit_of_ours()
    assert listening.disturbed()


def test_a_commit_in_place_of_ours_is_counted(kernel: Kernel, listening: Ear) -> None:
    with listening.unheard() as own:
        kernel.commit()
        kernel.settle()
        own.commits = 0  # ours was refused
    assert listening.disturbed()


def test_a_commit_right_behind_ours_is_counted(kernel: Kernel, listening: Ear) -> None:
    with listening.unheard():
        kernel.commit_of_ours()
        kernel.on_next_count = [kernel.commit, lambda: None]
    assert listening.disturbed()


def test_what_will_be_told_is_still_told(kernel: Kernel, listening: Ear) -> None:
    assert not listening.will_be_disturbed()
    kernel.commit()
    assert listening.will_be_disturbed()
    assert listening.will_be_disturbed()
    assert listening.disturbed()
    assert not listening.will_be_disturbed()


def test_the_count_is_read_as_the_kernel_writes_it(kernel: Kernel, listening: Ear) -> None:
    kernel.generation = struct.unpack(">I", b"\0\1\0\2")[0]
    assert listening.generation() == 65538
