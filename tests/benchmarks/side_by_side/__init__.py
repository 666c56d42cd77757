"""Pointsman's agent and kube-proxy on the same API server, one after the other on equal nodes.

`seed` has the cluster's objects, `proxies` the two programs, `ground` the network, `probe` the connections, `measure`
what is measured, `table` what comes of it.
"""
