"""Images, built from Dockerfiles by buildah and kept in the cache as archives that containerd imports.

No registry is asked: the base image is a Debian made by debootstrap from the machine's own package mirror, and has the
name that the Dockerfiles give it. An image is built again when its Dockerfile or what goes into it has changed.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from pointsman.lab import namespaces
from pointsman.lab.components import store
from pointsman.lab.containers.runtime import PAUSE_IMAGE
from pointsman.lab.namespaces import LabError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

AGNHOST: Final = "registry.k8s.io/e2e-test-images/agnhost:2.66.1"
COREDNS: Final = "registry.k8s.io/coredns/coredns:lab"
_BASE: Final = "docker.io/library/debian:bookworm-slim"
_SUITE: Final = "bookworm"
_HERE: Final = Path(__file__).with_name("images")
_BUNDLE: Final = "/etc/ssl/certs/ca-certificates.crt"
_LAST_LINES: Final = 30

_SLIM: Final = ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale", "var/log")
"""What images of Debian leave out."""


class Image(msgspec.Struct, frozen=True):
    """An image in an archive (``docker-archive``).

    Attributes:
        name: with its tag, as a Pod names it.
        archive: the file.
    """

    name: str
    archive: Path


class Images:
    """Builds images where they are missing."""

    def __init__(self, programs: Mapping[str, Path], say: Callable[[str], None]) -> None:
        """Prepare.

        Args:
            programs: built programs by name, which go into images.
            say: is told the progress.
        """
        self._programs = programs
        self._say = say
        self._home = store.home().parent / "images"

    def of_nodes(self) -> tuple[Image, ...]:
        """Those that every node has."""
        return self.pause(), self.agnhost(), self.coredns()

    def pause(self) -> Image:
        """What holds a Pod's namespaces."""
        return self._small("pause", PAUSE_IMAGE, Path(namespaces.find_program("busybox")))

    def coredns(self) -> Image:
        """The cluster's name server."""
        return self._small("coredns", COREDNS, self._programs["coredns"])

    def agnhost(self) -> Image:
        """The image of Kubernetes' end-to-end tests."""
        return self._small("agnhost", AGNHOST, self._programs["agnhost"])

    def from_source(self, name: str, source: Path, parts: Iterable[str]) -> Image:
        """Build an image from a directory with a Dockerfile.

        Args:
            name: what to call it, with its tag.
            source: the directory.
            parts: files and directories in it that go into the image, beside the Dockerfile.

        Raises:
            LabError: the build failed; the message holds the end of what it said.
        """
        inputs = _contents(source, ("Dockerfile", *parts))
        return self._provide(name, source / "Dockerfile", source, inputs)

    def derived(self, name: str, image: Image, step: str) -> Image:
        """Build an image that is another one and a step more.

        Args:
            name: what to call it, with its tag.
            image: the other one.
            step: of a Dockerfile: ``LABEL a=b``.
        """
        with tempfile.TemporaryDirectory(prefix="pointsman-image-") as directory:
            recipe = Path(directory, "Dockerfile")
            recipe.write_text(f"FROM {image.name}\n{step}\n", "utf-8")
            return self._provide(name, recipe, Path(directory), [str(image.archive).encode(), step.encode()])

    def _small(self, kind: str, name: str, program: Path) -> Image:
        """Build an image of a single program."""
        recipe = _HERE / f"{kind}.Dockerfile"
        with tempfile.TemporaryDirectory(prefix="pointsman-image-") as directory:
            context = Path(directory)
            target = context / program.name
            shutil.copy(program, target)
            return self._provide(name, recipe, context, [recipe.read_bytes(), store.digest(program).encode()])

    def _provide(self, name: str, recipe: Path, context: Path, inputs: Iterable[bytes]) -> Image:
        key = hashlib.sha256(name.encode())
        for part in inputs:
            key.update(len(part).to_bytes(8) + part)
        stem = re.sub(r"\W+", "-", name.rpartition("/")[2])
        archive = self._home / f"{stem}-{key.hexdigest()[:16]}.tar"
        image = Image(name, archive)
        if not archive.exists():
            with store.locked("images"):
                if not archive.exists():
                    self._build(image, recipe, context)
                    _forget_others(archive, stem)
        return image

    def _build(self, image: Image, recipe: Path, context: Path) -> None:
        self._say(f"building the image {image.name}")
        self._home.mkdir(parents=True, exist_ok=True)
        if "scratch" not in recipe.read_text("utf-8"):
            self._provide_base()
        with tempfile.TemporaryDirectory(prefix="pointsman-image-") as directory:
            pip = Path(directory, "pip.conf")
            pip.write_text(_pip_configuration(), "utf-8")
            volumes = (f"{_BUNDLE}:/run/lab-ca.crt:ro", f"{pip}:/etc/pip.conf:ro")
            self._buildah(
                "build", "--isolation=chroot", "--network=host", "--pull-never", "--layers",
                f"--build-arg=BASE={_BASE}", *(f"--volume={volume}" for volume in volumes),
                f"--tag={image.name}", f"--file={recipe}", str(context),
            )  # fmt: skip
        draft = image.archive.with_name(f".{image.archive.name}.draft")
        draft.unlink(missing_ok=True)
        self._buildah("push", "--quiet", image.name, f"docker-archive:{draft}:{image.name}")
        draft.rename(image.archive)
        self._buildah("rmi", "--prune")

    def _provide_base(self) -> None:
        """Make the base image: a small Debian, as the one that its name stands for."""
        if self._has(_BASE):
            return
        self._say("making a base image with debootstrap: about two minutes, once")
        with tempfile.TemporaryDirectory(prefix="pointsman-base-", dir=self._home) as directory:
            root = Path(directory, "root")
            namespaces.run("debootstrap", "--variant=minbase", _SUITE, str(root), mirror())
            for place in _SLIM:
                _empty(root / place)
            container = self._buildah("from", "scratch").strip()
            self._buildah("add", "--quiet", container, str(root), "/")
            self._buildah("config", "--cmd", "/bin/bash", container)
            self._buildah("commit", "--quiet", "--rm", container, _BASE)

    def _has(self, name: str) -> bool:
        return name in self._buildah("images", "--format", "{{.Name}}:{{.Tag}}").split()

    def _buildah(self, *arguments: str) -> str:
        storage = (f"--root={self._home}/storage", f"--runroot={self._home}/run", "--storage-driver=overlay")
        program = namespaces.find_program("buildah")
        done = subprocess.run(  # noqa: S603 - a fixed program
            [program, *storage, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PATH": f"{os.environ['PATH']}:{namespaces.SYSTEM_PATH}"},
        )
        if done.returncode:
            said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-_LAST_LINES:])
            raise LabError(f"`buildah {arguments[0]}` failed with status {done.returncode}:\n{said}")
        return done.stdout


def _contents(source: Path, parts: Iterable[str]) -> list[bytes]:
    """Read what goes into an image, each file with its name."""
    found = []
    for part in parts:
        place = source / part
        files = sorted(place.rglob("*")) if place.is_dir() else [place]
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts:
                found += [str(file.relative_to(source)).encode(), file.read_bytes()]
    return found


def _forget_others(archive: Path, stem: str) -> None:
    """Remove the archives of an image's former forms."""
    for other in archive.parent.glob(f"{stem}-{'?' * 16}.tar"):
        if other != archive:
            other.unlink(missing_ok=True)


def _empty(directory: Path) -> None:
    for entry in directory.iterdir() if directory.is_dir() else ():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def mirror() -> str:
    """Return the package mirror that this machine uses for Debian.

    Raises:
        LabError: it uses none.
    """
    said = namespaces.run("apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages")
    for line in said.splitlines():
        if line.rstrip("/").endswith("/debian"):
            return line
    raise LabError("apt knows no mirror of Debian (/etc/apt/sources.list.d), from which the base image is made")


def _pip_configuration() -> str:
    """Write how this machine's pip finds packages, for the pip in a build."""
    index = os.environ.get("PIP_INDEX_URL", "")
    return f"[global]\ncert = /run/lab-ca.crt\n{f'index-url = {index}' if index else ''}\n"
