"""Messages about links and their addresses (linux/rtnetlink.h, if_link.h, if_addr.h)."""

from __future__ import annotations

import struct
from typing import Final

RTM_DELLINK: Final = 17
RTM_GETLINK: Final = 18
RTM_GETADDR: Final = 22

IFINFOMSG: Final = struct.Struct("=BBHiII")
"""What begins a message about a link: its number is the fourth field."""
IFLA_IFNAME: Final = 3
IFLA_OPERSTATE: Final = 16
IFLA_LINKINFO: Final = 18
IFLA_INFO_KIND: Final = 1
IF_OPER_UP: Final = 6

IFADDRMSG: Final = struct.Struct("=BBBBI")
"""What begins a message about an address: its link's number is the last field."""
IFA_ADDRESS: Final = 1
IFA_LOCAL: Final = 2
