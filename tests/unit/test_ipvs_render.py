"""`pointsman render --mode ipvs`: a shell script with everything that the agent would write."""

from __future__ import annotations

import subprocess

from pointsman.dataplane.ipvs import render
from pointsman.model.plan import NODE_PORT, Answer, Backend, Frontend, NodeSettings, Plan, Pool

SETTINGS = NodeSettings(
    pod_cidrs=("10.1.0.0/16",), service_cidrs=("10.96.0.0/12",), node_port_cidrs=("0.0.0.0/0", "::/0")
)
POOL = Pool((Backend("10.1.0.1", 8080, 1, local=True), Backend("10.1.0.2", 8080, 3)))
SIX = Pool((Backend("fd00:1::1", 53),))
NODE = ("192.168.0.2", "fd00::2")


def script(**answers: Answer) -> str:
    frontends = {
        "web": Frontend(4, "10.96.0.1", "tcp", 80),
        "six": Frontend(6, "fd00:96::1", "udp", 53),
        "port": Frontend(4, NODE_PORT, "tcp", 30080),
        "same": Frontend(4, "192.168.0.2", "tcp", 30080),
    }
    return render(Plan({frontends[name]: answer for name, answer in answers.items()}, SETTINGS), NODE)


def servers(text: str) -> list[str]:
    return text.partition("ipvsadm --restore <<'END'\n")[2].partition("END\n")[0].splitlines()


def test_virtual_and_real_servers() -> None:
    text = script(
        web=Answer("default/web", "wrr", POOL, affinity=300),
        six=Answer("default/dns", "rr", SIX),
        port=Answer("default/web", "rr", POOL, Pool((), "drop")),
    )
    assert servers(text) == [
        "-A -t 10.96.0.1:80 -s wrr -p 300",
        "-a -t 10.96.0.1:80 -r 10.1.0.1:8080 -m -w 1",
        "-a -t 10.96.0.1:80 -r 10.1.0.2:8080 -m -w 3",
        "-A -u [fd00:96::1]:53 -s rr",
        "-a -u [fd00:96::1]:53 -r [fd00:1::1]:53 -m -w 1",
        "-A -f 1347223552 -s rr",
        "-a -f 1347223552 -r 10.1.0.1:8080 -m -w 1",
        "-a -f 1347223552 -r 10.1.0.2:8080 -m -w 3",
    ]


def test_an_address_of_its_own_comes_before_a_node_port() -> None:
    text = script(port=Answer("default/port", "rr", POOL), same=Answer("default/same", "lc", POOL))
    assert servers(text)[0] == "-A -t 192.168.0.2:30080 -s lc"
    assert sum(line.startswith("-A") for line in servers(text)) == 1


def test_routes_have_the_nodes_address_as_source() -> None:
    text = script(web=Answer("default/web", "rr", POOL), six=Answer("default/dns", "rr", SIX))
    routes = [line for line in text.splitlines() if line.startswith("ip -")]
    assert routes == [
        "ip -4 route replace local 10.96.0.0/12 dev lo table local proto 112 src 192.168.0.2",
        "ip -6 route replace local fd00:96::1/128 dev lo table local proto 112 src fd00::2",
    ]


def test_a_shell_reads_it() -> None:
    text = script(web=Answer("default/web", "rr", POOL))
    subprocess.run(["sh", "-n"], input=text, text=True, check=True)
