"""What stays in the kernel when a Service proxy has ended: found, named, and removed where it is its own.

Belongs here: what kube-proxy's releases 1.20 to 1.37 leave behind in all their modes, and a listing of what ours do.
Must not be here: what a mode of ours needs to work; each removes its own by `Dataplane.cleanup`.
"""

from pointsman.dataplane.leftovers.found import Leftover
from pointsman.dataplane.leftovers.kube_proxy import KubeProxy
from pointsman.dataplane.leftovers.modes import held_by, is_known, legacy_is_unseen, proxy_is_empty

__all__ = ["KubeProxy", "Leftover", "held_by", "is_known", "legacy_is_unseen", "proxy_is_empty"]
