"""File numbers below 1024 are there for those who need them, however many files are open."""

from __future__ import annotations

import gc
import os
import resource
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from pointsman.agent.low_files import FD_SETSIZE, LowFiles

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def many_files() -> Iterator[None]:
    """Have every number below 1024 in use, and some above."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 2 * FD_SETSIZE)), hard))
    opened = [os.open(os.devnull, os.O_RDONLY)]
    try:
        while opened[-1] < FD_SETSIZE + 10:
            opened.append(os.dup(opened[-1]))
        yield
    finally:
        for number in opened:
            os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def next_number() -> int:
    number = os.open(os.devnull, os.O_RDONLY)
    os.close(number)
    return number


def test_low_numbers_are_there_while_somebody_opens_what_needs_them() -> None:
    with closing(LowFiles(3)) as low, many_files():
        assert next_number() >= FD_SETSIZE
        with low.freed():
            assert next_number() < FD_SETSIZE
            kept = os.open(os.devnull, os.O_RDONLY)
        assert next_number() >= FD_SETSIZE, "what is left is held again"
        os.close(kept)
        assert next_number() < FD_SETSIZE
        low.refill()
        assert next_number() >= FD_SETSIZE, "and what came back, too"


def test_where_there_are_none_it_does_without() -> None:
    with many_files(), closing(LowFiles(3)) as low:
        with low.freed():
            assert next_number() >= FD_SETSIZE
        assert next_number() >= FD_SETSIZE


def test_one_that_is_forgotten_keeps_nothing() -> None:
    number = next_number()
    low = LowFiles(3)
    assert next_number() > number
    del low
    gc.collect()
    assert next_number() == number
