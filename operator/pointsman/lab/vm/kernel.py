"""The guest's kernel: Debian's newest, unpacked into the cache, never installed."""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from pointsman.lab import namespaces
from pointsman.lab.components import store
from pointsman.lab.namespaces import LabError
from pointsman.lab.vm.apt import Packages

if TYPE_CHECKING:
    from collections.abc import Callable

KEPT_DRIVERS: Final = (
    "block/loop.ko*",
    "char/virtio_console.ko*",
    "net/*.ko*",
    "net/bonding/*",
    "net/ipvlan/*",
    "net/team/*",
    "net/vxlan/*",
    "net/wireguard/*",
    "virtio/*",
)
"""Which files of ``kernel/drivers`` a guest can use. The others are three quarters of the package, and udev would load
those for QEMU's discs, keyboard and watchdog one by one at each boot."""

_UNUSED: Final = ("kernel/sound", "kernel/arch/x86/kvm")


class Kernel(msgspec.Struct, frozen=True):
    """A kernel that is unpacked.

    Attributes:
        release: as `uname -r` names it.
        root: directory with what the package has: ``boot/vmlinuz-RELEASE``, ``lib/modules/RELEASE``.
    """

    release: str
    root: Path

    @property
    def image(self) -> Path:
        """The file to boot."""
        return self.root / "boot" / f"vmlinuz-{self.release}"

    @property
    def modules(self) -> Path:
        """The directory of the modules, as ``/lib/modules/RELEASE`` is elsewhere."""
        return self.root / "lib" / "modules" / self.release


def home() -> Path:
    """Return the directory of all kernels, ``$XDG_CACHE_HOME/pointsman/kernels``; it need not be there."""
    return store.home().parent / "kernels"


def provide(say: Callable[[str], None]) -> Kernel:
    """Return the newest kernel of this Debian; fetch and unpack it where it is not in the cache.

    Where nothing can be fetched the newest of the cache serves.

    Args:
        say: is told what is done, and nothing when the kernel is there.

    Raises:
        LabError: it cannot be had; the message says why.
    """
    with store.locked("kernels"):
        home().mkdir(exist_ok=True)
        _remove_drafts()
        try:
            return _newest(say)
        except LabError as error:
            if not (cached := cached_kernels()):
                raise
            say(f"{cached[-1].release} of the cache serves, as the newest kernel cannot be had: {error}")
            return cached[-1]


def cached_kernels() -> list[Kernel]:
    """List the kernels of the cache, the newest last."""
    directories = [path for path in home().glob("[0-9]*") if path.is_dir()]
    return [Kernel(path.name, path) for path in sorted(directories, key=lambda path: _numbers(path.name))]


def prune(modules: Path) -> None:
    """Remove the modules that no guest can use: see `KEPT_DRIVERS`."""
    drivers = modules / "kernel" / "drivers"
    kept = {path for pattern in KEPT_DRIVERS for path in drivers.glob(pattern)}
    for path in [path for path in drivers.rglob("*") if path.is_file()]:
        if path not in kept:
            path.unlink()
    for name in _UNUSED:
        shutil.rmtree(modules / name, ignore_errors=True)


def _newest(say: Callable[[str], None]) -> Kernel:
    packages = Packages()
    own = Packages(home() / "apt")
    try:
        return _provide_from(packages, say)
    except LabError:
        # Lists that are old name packages that are gone, and an image of a system often has none. Only root may renew
        # the system's.
        say("looking for the newest kernel in Debian's package lists")
        own.refresh()
        return _provide_from(own, say)


def _provide_from(packages: Packages, say: Callable[[str], None]) -> Kernel:
    release = packages.newest_kernel()
    kernel = Kernel(release, home() / release)
    if not kernel.image.exists():
        _fetch(kernel, packages, say)
    return kernel


def _fetch(kernel: Kernel, packages: Packages, say: Callable[[str], None]) -> None:
    begun = time.monotonic()
    package = f"linux-image-{kernel.release}"
    say(f"downloading {package} (about 70 MB, once; kept in {home()})")
    with tempfile.TemporaryDirectory(prefix=".draft-", dir=home()) as draft:
        place = Path(draft)
        file = packages.download(package, place)
        size = file.stat().st_size
        unpacked = Kernel(kernel.release, place / "unpacked")
        namespaces.run("dpkg-deb", "--extract", str(file), str(unpacked.root))
        prune(unpacked.modules)
        namespaces.run("depmod", "--basedir", str(unpacked.root), kernel.release)
        unpacked.root.rename(kernel.root)
    say(f"{package} is there: {size / 1e6:.1f} MB fetched and unpacked in {time.monotonic() - begun:.0f} s")


def _remove_drafts() -> None:
    for path in home().glob(".draft-*"):
        shutil.rmtree(path, ignore_errors=True)


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", release))
