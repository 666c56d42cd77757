"""Pointsman: a Kubernetes Service proxy that asks the kernel for less.

Data flows one way: `sources` -> `model` -> `policy` -> plan -> `dataplane` -> kernel.
Every package says in its own ``__init__`` what belongs there and what must not.
"""

__version__ = "0.1.0"
