"""What the kernel must have for the rules of this mode: tried, not guessed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pointsman.dataplane.iptables.tools import TRIAL, refused
from pointsman.dataplane.protocol import DataplaneError
from pointsman.model.plan import IPV4

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pointsman.dataplane.iptables.tools import Tools

_NAT: Final = {
    "-m comment --comment x -j RETURN": "xt_comment",
    "-p tcp -m tcp --dport 1 -j RETURN": "xt_tcpudp",
    "-m addrtype --dst-type LOCAL -j RETURN": "xt_addrtype",
    "-m statistic --mode random --probability 0.5 -j RETURN": "xt_statistic",
    f"-m recent --rcheck --seconds 1 --reap --name {TRIAL} --rsource -j RETURN": "xt_recent",
    "-m mark --mark 0x4000/0x4000 -j RETURN": "xt_mark",
    "-j MARK --set-xmark 0x4000/0x4000": "xt_mark",
    "-j MASQUERADE --random-fully": "xt_MASQUERADE",
    "-p tcp -m tcp -j DNAT --to-destination 192.0.2.1:1": "xt_nat",
}
_FILTER: Final = {
    "-m conntrack --ctstate NEW -j RETURN": "xt_conntrack",
    "-p tcp -j REJECT --reject-with tcp-reset": "ipt_REJECT",
}
"""Rules of each table, and the kernel module that has what they need."""


def reason_against(tools: Tools) -> str:
    """Say why the mode cannot run with these programs, with the remedy; "" when it can."""
    try:
        lacking = [*_lacking(tools, "nat", _NAT), *_lacking(tools, "filter", _FILTER)]
        if not lacking:
            return ""
        failure = tools.restore(IPV4, f"*nat\n:{TRIAL} - [0:0]\n-X {TRIAL}\nCOMMIT\n")
    except DataplaneError as error:
        return _cannot(tools, str(error))
    if failure is not None:
        return _cannot(tools, failure.text)
    modules = " ".join(dict.fromkeys(lacking))
    return f"this kernel lacks what the rules need, for iptables ({tools.variant}); run `modprobe -a {modules}`"


def _lacking(tools: Tools, table: str, rules: Mapping[str, str]) -> list[str]:
    return [rules[rule] for rule in refused(tools, IPV4, table, rules)]


def _cannot(tools: Tools, words: str) -> str:
    """Say what to do where not even an empty chain can be made."""
    if tools.variant == "nft":
        remedy = "it needs CAP_NET_ADMIN, and the kernel's modules: `modprobe -a nf_tables nft_compat nft_chain_nat`"
    else:
        remedy = (
            "the node uses the legacy one, which needs CAP_NET_ADMIN and CAP_NET_RAW, /run/xtables.lock "
            "(chart: agent.iptablesLegacy=true), and kernel modules: `modprobe -a ip_tables iptable_nat iptable_filter`"
        )
    return f"iptables ({tools.variant}) does not work here ({words}); {remedy}"
