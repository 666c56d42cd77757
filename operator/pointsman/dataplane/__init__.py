"""How a plan gets into the kernel: one package a mode, and what they share.

Belongs here: netlink, nftables, conntrack, sysctls. Must not be here: Services, EndpointSlices, or any decision that
all modes would have to make alike; those are in the plan already.
"""
