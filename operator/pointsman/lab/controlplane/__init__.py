"""A real control plane for the lab: etcd, API server and controllers in a namespace, and clusters that follow it.

Belongs here: running the components, standing in for scheduler and kubelet, the guided tour over a real API server.
Must not be here: building the components (`pointsman.lab.components`), anything that agent or operator need.
"""
