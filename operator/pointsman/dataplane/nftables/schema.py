"""What the tables of the mode `nftables` consist of."""

from __future__ import annotations

from typing import Final

from pointsman.dataplane.nftables.classes import is_class_chain
from pointsman.dataplane.nftables.layout import LAYOUTS, TABLE, Schema
from pointsman.dataplane.nftables.skeleton import chains

SCHEMA: Final = Schema(TABLE, LAYOUTS, chains, frozenset({"affinity", "structure"}), is_class_chain)
