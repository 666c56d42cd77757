"""The node agent: follows a source, keeps the plan, and brings it into the kernel.

Belongs here: the sync loop, health and metrics servers, the wiring of one process. Must not be here: policy, and
anything that a test could not run with a fake clock and a fake dataplane.
"""
