"""Pointsman in a cluster, as its users install it: by Helm, from the chart."""

from __future__ import annotations

import json
import shlex
import subprocess
from typing import TYPE_CHECKING, Any, Final

from pointsman.lab.components.build import provide
from pointsman.lab.containers.cluster import POD_CIDR
from pointsman.lab.controlplane.commands import ADDRESS, API_PORT
from pointsman.lab.namespaces import LabError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from pointsman.lab.containers.cluster import ContainerCluster
    from pointsman.lab.containers.images import Image, Images

NAME: Final = "pointsman"
NAMESPACE: Final = "pointsman-system"
_TIMEOUT: Final = "3m"
_PARTS: Final = (
    *(".dockerignore", "LICENSE", "README.md", "operator", "pyproject.toml"),
    *("requirements-build.lock", "requirements.lock"),
)
"""What of a clone goes into the image, as .dockerignore says."""


def image(images: Images, clone: Path) -> Image:
    """Build the image of a clone from its Dockerfile, where it is missing.

    Raises:
        LabError: the build failed.
    """
    return images.from_source("localhost/pointsman:lab", clone, _PARTS)


class HelmError(LabError):
    """Helm failed; the message holds what it said."""


class Release:
    """The release of the chart in a cluster; nothing is installed until `install`.

    Attributes:
        image: of the clone that is tried.
    """

    def __init__(self, cluster: ContainerCluster, clone: Path, *, say: Callable[[str], None] = lambda _: None) -> None:
        """Build Helm and the image, and let all nodes have it.

        Args:
            cluster: where it is installed.
            clone: root of the source, with ``charts/pointsman`` and ``Dockerfile``.
            say: is told the progress.

        Raises:
            LabError: a build failed.
        """
        self._cluster = cluster
        self._chart = clone / "charts/pointsman"
        self._helm = provide(("helm",), say)["helm"]
        self.image = image(cluster.images, clone)
        cluster.bring(self.image)

    def install(self, values: Mapping[str, Any] | None = None) -> None:
        """Install the chart, and wait until everything is ready.

        Args:
            values: of the chart, over those that the lab needs.

        Raises:
            HelmError: it failed.
        """
        self.helm("install", *self._arguments(values or {}), "--create-namespace")

    def upgrade(self, values: Mapping[str, Any], *, image: Image | None = None) -> None:
        """Upgrade to other values, or to another image, and wait until everything is ready.

        Raises:
            HelmError: it failed.
        """
        self.helm("upgrade", *self._arguments(values, image))

    def uninstall(self) -> None:
        """Uninstall, and wait until everything is gone.

        Raises:
            HelmError: it failed.
        """
        self.helm("uninstall", NAME, "--namespace", NAMESPACE, "--wait", "--timeout", _TIMEOUT)

    def helm(self, *arguments: str) -> str:
        """Run Helm as administrator, and return its output.

        Raises:
            HelmError: it failed.
        """
        plane = self._cluster.plane
        with plane.namespace.entered():
            done = subprocess.run(  # noqa: S603 - a program of ours
                [str(self._helm), f"--kubeconfig={plane.kubeconfig}", *arguments],
                capture_output=True,
                text=True,
                check=False,
                env={"HOME": str(plane.files)},
            )
        if done.returncode:
            raise HelmError(f"`helm {shlex.join(arguments)}` failed: {done.stderr.strip()}")
        return done.stdout

    def _arguments(self, values: Mapping[str, Any], image: Image | None = None) -> tuple[str, ...]:
        file = self._cluster.plane.files / "values.json"
        file.write_text(json.dumps(merged(self._own_values(image or self.image), values)), "utf-8")
        options = {"--namespace": NAMESPACE, "--values": str(file), "--timeout": _TIMEOUT}
        return (NAME, str(self._chart), *(word for option in options.items() for word in option), "--wait")

    def _own_values(self, image: Image) -> dict[str, Any]:
        repository, _, tag = image.name.rpartition(":")
        return {
            "apiServer": {"host": ADDRESS, "port": API_PORT},
            "image": {"repository": repository, "tag": tag, "pullPolicy": "Never"},
            "proxyConfig": {"spec": {"podCIDRs": [POD_CIDR]}},
            "webhook": {"timeoutSeconds": 30},  # on a machine that stalls; what is not judged in time is let through
        }


def merged(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """Put values over others, as Helm does."""
    both = dict(lower)
    for key, value in upper.items():
        deeper = isinstance(value, dict) and isinstance(both.get(key), dict)
        both[key] = merged(both[key], value) if deeper else value
    return both
