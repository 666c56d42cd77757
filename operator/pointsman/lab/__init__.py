"""Nodes, pods and clients as network namespaces on one machine: the demo, and the ground of the tests.

Belongs here: building and removing namespaces, sending real packets, the guided tour. Must not be here: anything
that the agent needs.
"""
