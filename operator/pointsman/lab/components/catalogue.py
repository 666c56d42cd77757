"""Which programs can be built, from which modules, and how; a program more is a line more.

The go.mod of a module, beside this file, says the versions, and its go.sum the hash of each module that goes into it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import msgspec

_VERSION_PACKAGE: Final = "k8s.io/component-base/version"
_FLAGS: Final = ("-trimpath", "-buildvcs=false", "-v")
"""-v names each package that is compiled: the build's progress."""


class Module(msgspec.Struct, frozen=True):
    """A Go module of ours that requires what programs are made of.

    Attributes:
        name: its directory beside this file.
        requires: the module whose version is the programs' version.
        stamped: the version is linked in, as Kubernetes' own builds do it.
    """

    name: str
    requires: str
    stamped: bool

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

    def flags(self) -> tuple[str, ...]:
        """Return what ``go build`` is given."""
        link = "-s -w"
        if self.stamped:
            major, minor, _ = self.version[1:].split(".", 2)
            values = {"gitVersion": self.version, "gitMajor": major, "gitMinor": minor}
            link += "".join(f" -X {_VERSION_PACKAGE}.{name}={value}" for name, value in values.items())
        return (*_FLAGS, "-ldflags", link)

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
        package: its main package.
        asks: the arguments that make it print its version.
    """

    name: str
    module: Module
    package: str
    asks: tuple[str, ...] = ("--version",)


ETCD: Final = Module("etcd", "go.etcd.io/etcd/server/v3", stamped=False)
KUBERNETES: Final = Module("kubernetes", "k8s.io/kubernetes", stamped=True)

COMPONENTS: Final = {
    component.name: component
    for component in (
        Component("etcd", ETCD, "go.etcd.io/etcd/server/v3"),
        Component("kube-apiserver", KUBERNETES, "k8s.io/kubernetes/cmd/kube-apiserver"),
        Component("kube-controller-manager", KUBERNETES, "k8s.io/kubernetes/cmd/kube-controller-manager"),
        Component("kubectl", KUBERNETES, "k8s.io/kubernetes/cmd/kubectl", ("version", "--client")),
        Component("kube-proxy", KUBERNETES, "k8s.io/kubernetes/cmd/kube-proxy"),
    )
}
"""By name, in the order in which they are built."""
