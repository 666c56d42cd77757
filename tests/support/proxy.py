"""The proxy under test: objects in, rules in a node's namespace out, joined as the agent joins them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from pointsman.model.objects import ObjectKey
from pointsman.model.parse import parse
from pointsman.policy.planner import Planner
from support.dataplanes import open_dataplane

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Self

    from pointsman.api.names import Mode
    from pointsman.api.proxyconfig import ProxyConfigSpec
    from pointsman.dataplane.protocol import Written
    from pointsman.lab.network import Host
    from support.manifests import Document


class Proxy:
    """A planner and the dataplane of one node; a context manager that closes the dataplane's sockets.

    Attributes:
        planner, dataplane: to look into.
    """

    def __init__(
        self,
        node: Host,
        config: ProxyConfigSpec | None = None,
        *,
        addresses: tuple[str, ...] | None = None,
        mode: Mode = "nftables",
    ) -> None:
        self.dataplane = open_dataplane(node, mode)
        found = node.addresses if addresses is None else addresses
        self.planner = Planner(node.name, config=config, addresses=found, mode=mode)
        self._adopted = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.dataplane.close()

    def put(self, documents: Iterable[Document]) -> None:
        """Take in objects as they stand in a manifest; each has to be without a fault."""
        for document in documents:
            parsed = parse(msgspec.json.encode(document))
            assert not parsed.problems, parsed.problems
            for obj in parsed.objects:
                self.planner.put(obj)

    def remove(self, *names: str) -> None:
        """Forget objects that are called ``Kind namespace/name`` (or ``Kind name``)."""
        for text in names:
            kind, _, path = text.partition(" ")
            namespace, _, name = path.rpartition("/")
            self.planner.remove(msgspec.convert({"kind": kind, "namespace": namespace, "name": name}, ObjectKey))

    def sync(self) -> Written:
        """Bring what changed into the kernel: the whole plan at first, then the difference."""
        delta = self.planner.take()
        written = self.dataplane.apply(delta) if self._adopted else self.dataplane.adopt(self.planner.plan)
        self._adopted = True
        refused = {name: why for name, why in written.refused.items() if "has no SCTP" not in why}
        assert not refused, refused
        return written
