"""What packages that extend Pointsman import: everything that `docs/extending.md` names, and nothing else.

Names here stay what they are within a minor version; everything behind them may move.
"""

from __future__ import annotations

from pointsman.dataplane.protocol import DataplaneError, PlainDataplane, ServerTraffic, Support, Traffic, Written
from pointsman.model.plan import (
    NODE_PORT,
    Answer,
    Backend,
    Delta,
    Frontend,
    NodeSettings,
    Plan,
    Pool,
    Slots,
    apply,
    difference,
)
from pointsman.policy.own_schedulers import Scheduler

__all__ = [
    "NODE_PORT",
    "Answer",
    "Backend",
    "DataplaneError",
    "Delta",
    "Frontend",
    "NodeSettings",
    "PlainDataplane",
    "Plan",
    "Pool",
    "Scheduler",
    "ServerTraffic",
    "Slots",
    "Support",
    "Traffic",
    "Written",
    "apply",
    "difference",
]
