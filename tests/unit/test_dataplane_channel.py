"""The lean netlink channel against this kernel: requests that it refuses, and answers that are lost."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from typing import TYPE_CHECKING

import pytest

from pointsman.dataplane.channel import NETLINK_GENERIC, NETLINK_ROUTE, Channel, attributes
from pointsman.dataplane.netlink import string

if TYPE_CHECKING:
    from collections.abc import Iterator

UNKNOWN = 0x7FF  # no message type of rtnetlink: refused, whoever asks
CONTROLLER = 0x10
GETLINK = 18


@pytest.fixture
def channel() -> Iterator[Channel]:
    with contextlib.closing(Channel(NETLINK_ROUTE)) as made:
        yield made


@pytest.fixture
def generic() -> Iterator[Channel]:
    with contextlib.closing(Channel(NETLINK_GENERIC, buffer=1 << 20)) as made:
        yield made


def family(name: str) -> bytes:
    return struct.pack("=BBH", 3, 1, 0) + string(2, name)


def link(index: int) -> bytes:
    return struct.pack("=BBHiII", socket.AF_UNSPEC, 0, 0, index, 0, 0)


def test_a_refused_request_is_known_by_its_place(channel: Channel) -> None:
    refused = channel.submit(GETLINK, [link(0x7FFFFFFF), link(0x7FFFFFFE)])
    assert [(r.index, r.error) for r in refused] == [(0, errno.ENODEV), (1, errno.ENODEV)]
    assert channel.run(UNKNOWN, [link(1)]) == [errno.EOPNOTSUPP]
    assert channel.submit(UNKNOWN, []) == []


@pytest.mark.parametrize("buffer", [1, 1 << 16, 1 << 20])
def test_every_request_is_refused_by_its_place_in_many_sends(channel: Channel, buffer: int) -> None:
    channel._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    refused = channel.submit(UNKNOWN, [link(1)] * 2000)
    assert [(r.index, r.error) for r in refused] == [(index, errno.EOPNOTSUPP) for index in range(2000)]


def test_places_hold_when_sequence_numbers_begin_again(channel: Channel) -> None:
    channel._sequence = 0xFFFFFFFF - 3
    assert [r.index for r in channel.submit(UNKNOWN, [link(1)] * 10)] == list(range(10))
    assert channel._sequence == 7


def test_lost_answers_are_said_and_the_channel_goes_on(channel: Channel, monkeypatch: pytest.MonkeyPatch) -> None:
    channel._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    with monkeypatch.context() as patched:
        patched.setattr(channel, "_requests_in_one_send", lambda _largest: 1000)
        for _ in range(2):
            with pytest.raises(OSError, match="answers were lost") as caught:
                channel.submit(UNKNOWN, [link(1)] * 1000)
            assert caught.value.errno == errno.ENOBUFS
    assert channel.run(UNKNOWN, [link(1)] * 3) == [errno.EOPNOTSUPP] * 3


def test_one_object_is_asked_for(generic: Channel) -> None:
    message = generic.get(CONTROLLER, family("nlctrl"))
    start, end = attributes(message.data, message.start + 4, message.end)[1]
    assert struct.unpack("=H", message.data[start:end]) == (CONTROLLER,)
    with pytest.raises(FileNotFoundError):
        generic.get(CONTROLLER, family("no-such-family"))


def test_the_kernels_own_words_come_along(generic: Channel) -> None:
    (refused,) = generic.submit(CONTROLLER, [family("x" * 40)])
    assert refused.error == errno.EINVAL
    assert refused.text
    assert refused.text in str(refused)


def test_buffers_are_as_large_as_asked_for(generic: Channel) -> None:
    usual = Channel(NETLINK_ROUTE)
    with contextlib.closing(usual):
        assert generic._requests_in_one_send(100) > usual._requests_in_one_send(100)
