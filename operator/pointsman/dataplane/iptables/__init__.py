"""The mode `iptables`: the chains and names that kube-proxy's users know, brought in by ``iptables-restore``.

Belongs here: everything that knows iptables. Must not be here: Services, policies.
"""

from pointsman.dataplane.iptables.dataplane import IptablesDataplane
from pointsman.dataplane.iptables.render import render

__all__ = ["IptablesDataplane", "render"]
