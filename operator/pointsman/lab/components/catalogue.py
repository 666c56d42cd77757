"""Which programs can be built, from which modules, and how; a program more is a line more.

The go.mod of a module, beside this file, says the versions, and its go.sum the hash of each module that goes into it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import msgspec

_KUBERNETES_VERSION: Final = "k8s.io/component-base/version"
_FLAGS: Final = ("-trimpath", "-buildvcs=false")


class Module(msgspec.Struct, frozen=True):
    """A Go module of ours that requires what programs are made of.

    Attributes:
        name: its directory beside this file.
        requires: the module whose version is the programs' version.
        stamps: variables that are linked in as the project's own builds do it, with ``{version}``, ``{major}``,
            ``{minor}`` and ``{own}`` (a program's own version).
    """

    name: str
    requires: str
    stamps: tuple[str, ...] = ()

    @property
    def directory(self) -> Path:
        """Where its go.mod is."""
        return Path(__file__).with_name(self.name)

    @property
    def version(self) -> str:
        """The programs' version: ``v1.37.2``."""
        return self._find(rf"{re.escape(self.requires)} (v[\w.+-]+)")

    @property
    def go_version(self) -> str:
        """The oldest Go that builds it: ``1.26.0``."""
        return self._find(r"^go ([\d.]+)$")

    def _find(self, pattern: str) -> str:
        text = (self.directory / "go.mod").read_text("utf-8")
        match = re.search(pattern, text, re.MULTILINE)
        if match is None:
            raise ValueError(f"{self.directory / 'go.mod'} does not say {pattern}")
        return match[1]


class Component(msgspec.Struct, frozen=True):
    """A program.

    Attributes:
        name: what it is called.
        module: what it is built from.
        package: its main package, or the package whose tests it holds.
        asks: the arguments that make it print its version.
        own_version: its version, where that is not the module's.
        stamps: as a module's, for this program alone.
        holds_tests: it is a package's compiled tests.
    """

    name: str
    module: Module
    package: str
    asks: tuple[str, ...] = ("--version",)
    own_version: str = ""
    stamps: tuple[str, ...] = ()
    holds_tests: bool = False

    @property
    def version(self) -> str:
        """What it says of itself: ``v1.37.2``."""
        return self.own_version or self.module.version

    def command(self) -> tuple[str, ...]:
        """Return what ``go`` is given, but for where to put the program."""
        # -v names each package that is compiled, the build's progress; to `go test` it says something else.
        verb = ("test", "-c", "-vet=off") if self.holds_tests else ("build", "-v")
        return (*verb, *_FLAGS, "-ldflags", self._link())

    def _link(self) -> str:
        major, minor, _ = self.module.version.removeprefix("v").split(".", 2)
        values = {"version": self.module.version, "own": self.version, "major": major, "minor": minor}
        stamps = (*self.module.stamps, *self.stamps)
        return "-s -w" + "".join(f" -X {stamp.format(**values)}" for stamp in stamps)


ETCD: Final = Module("etcd", "go.etcd.io/etcd/server/v3")
KUBERNETES: Final = Module(
    "kubernetes",
    "k8s.io/kubernetes",
    (
        f"{_KUBERNETES_VERSION}.gitVersion={{version}}",
        f"{_KUBERNETES_VERSION}.gitMajor={{major}}",
        f"{_KUBERNETES_VERSION}.gitMinor={{minor}}",
    ),
)
HELM: Final = Module("helm", "helm.sh/helm/v4", ("helm.sh/helm/v4/internal/version.version={version}",))
COREDNS: Final = Module("coredns", "github.com/coredns/coredns")

COMPONENTS: Final = {
    component.name: component
    for component in (
        Component("etcd", ETCD, "go.etcd.io/etcd/server/v3"),
        Component("kube-apiserver", KUBERNETES, "k8s.io/kubernetes/cmd/kube-apiserver"),
        Component("kube-controller-manager", KUBERNETES, "k8s.io/kubernetes/cmd/kube-controller-manager"),
        Component("kubectl", KUBERNETES, "k8s.io/kubernetes/cmd/kubectl", ("version", "--client")),
        Component("kube-scheduler", KUBERNETES, "k8s.io/kubernetes/cmd/kube-scheduler"),
        Component("kubelet", KUBERNETES, "k8s.io/kubernetes/cmd/kubelet"),
        Component(
            "agnhost",
            KUBERNETES,
            "k8s.io/kubernetes/test/images/agnhost",
            own_version="2.66.1",
            stamps=("main.Version={own}",),
        ),
        Component("helm", HELM, "helm.sh/helm/v4/cmd/helm", ("version",)),
        Component("coredns", COREDNS, "github.com/coredns/coredns"),
        Component("kube-proxy", KUBERNETES, "k8s.io/kubernetes/cmd/kube-proxy"),
        Component("e2e.test", KUBERNETES, "k8s.io/kubernetes/test/e2e", holds_tests=True),
    )
}
"""By name, in the order in which they are built."""
