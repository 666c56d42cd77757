"""Kubernetes objects and the plan, as lean immutable values; pure.

Belongs here: the structs, reading them from bytes, comparing plans. Must not be here: decisions (that is `policy`),
files, sockets, clocks. Imports `api` alone.
"""
