"""The mode `userspace`: a proxy in the agent with a port for each frontend, and rules that lead connections there.

Belongs here: the proxy (which also serves node ports on loopback for the mode `nftables`) and its rules. Must not be
here: Services, policies.
"""

from pointsman.dataplane.userspace.dataplane import UserspaceDataplane
from pointsman.dataplane.userspace.loopback import WithLoopback
from pointsman.dataplane.userspace.render import render

__all__ = ["UserspaceDataplane", "WithLoopback", "render"]
