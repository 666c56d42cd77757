"""The mode `nftables`: Services are elements of a few maps, and the rules never grow.

Belongs here: everything that knows nft's rules, sets and wire format. Must not be here: Services, policies. The README
beside this file says which hook and chain does what.
"""

from pointsman.dataplane.nftables.dataplane import NftablesDataplane
from pointsman.dataplane.nftables.render import render

__all__ = ["NftablesDataplane", "render"]
