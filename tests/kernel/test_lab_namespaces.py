from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pointsman.lab import namespaces
from pointsman.lab.namespaces import LabError, Namespace
from pointsman.lab.network import Network


def _current() -> int:
    return Path("/proc/thread-self/ns/net").stat().st_ino


def test_a_thread_enters_and_comes_back() -> None:
    prefix = namespaces.new_prefix()
    home = _current()
    try:
        (made,) = namespaces.create([prefix + "one"])
        with made.entered():
            assert _current() == made.inode() != home
        assert _current() == home
        with pytest.raises(KeyError), made.entered():
            raise KeyError
        assert _current() == home
    finally:
        namespaces.sweep(prefix)


def test_names_are_unique_and_nothing_is_left() -> None:
    with Network() as one, Network() as two:
        for network in (one, two):
            network.pod("pod", "192.168.0.1", node=network.node("node", "172.16.0.1"))
            network.build()
        assert len(namespaces.with_prefix(one.prefix)) == len(namespaces.with_prefix(two.prefix)) == 3
        assert one.prefix != two.prefix
    assert not namespaces.with_prefix(one.prefix)
    assert not namespaces.with_prefix(two.prefix)


def test_processes_in_a_network_end_with_it() -> None:
    with Network() as network:
        network.build()
        process = network.router.namespace.start([sys.executable, "-c", "import time; time.sleep(60)"])
        assert network.router.namespace.processes() == (process.pid,)
    assert process.wait(5) == -9


def test_what_a_crashed_lab_left_is_found_and_removed() -> None:
    script = """if True:
        import os
        from pointsman.lab.network import Network
        network = Network()
        network.client("client", "203.0.113.1")
        network.build()
        network.router.namespace.start(["sleep", "60"])
        print(network.prefix, flush=True)
        os._exit(1)
    """
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=False)
    prefix = done.stdout.strip()
    assert len(namespaces.with_prefix(prefix)) == 2
    assert prefix in namespaces.leftovers()
    (orphan,) = Namespace(prefix + "router").processes()
    assert namespaces.sweep(prefix) == 2
    assert not namespaces.with_prefix(prefix)
    assert prefix not in namespaces.leftovers()
    assert not namespaces.is_running(orphan)


def test_a_running_lab_is_no_leftover(network: Network) -> None:
    network.build()
    assert network.prefix not in namespaces.leftovers()


def test_a_failed_command_says_what_failed(network: Network) -> None:
    network.build()
    message = r"(?s)Cannot find device.*\(in: link set nothing up\)"
    with network.router.namespace.entered(), pytest.raises(LabError, match=message):
        namespaces.batch(["link set lo up", "link set nothing up"])
    with pytest.raises(LabError, match="`no-such-program` is missing"):
        network.router.namespace.run("no-such-program")
