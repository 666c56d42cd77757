"""What is run on the host to boot a guest, and what the guest runs; pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from pointsman.lab.vm.kernel import Kernel

SHARED: Final = "/run/pointsman"
"""Where the guest has the directory that it shares with the host."""

JOB: Final = "job.sh"
"""Name of the job's script in the shared directory."""

UP: Final = "pointsman.vm: up after "
"""How the guest's first line begins; the seconds since its start follow."""

PROCESSORS: Final = 2
MEMORY: Final = "3G"

_ENTER: Final = Path(__file__).with_name("enter.sh")
_TAG: Final = "pointsman.host"

_WRITABLE: Final = ("/etc", "/lib", "/var")
"""Where virtme's init writes; to memory, by an overlay. /lib is for the folder /lib/modules, which a host may lack."""

_KERNEL_OPTIONS: Final = (
    "loglevel=5",  # behind virtme's own `quiet loglevel=1`: a console that tells why a guest died
    "mitigations=off",  # detours against other users of the processor, which cost a third under emulation
    "no_timer_check",  # on a busy host the emulated timer is late, and the kernel would take it for broken and panic
    "no5lvl",  # page tables of four levels are shorter to walk, and QEMU walks them in software
)

_ENVIRONMENT: Final = {
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "PYTHONUNBUFFERED": "1",
}


class Job(msgspec.Struct, frozen=True):
    """What a guest is started for.

    Attributes:
        command: the program and its arguments.
        directory: where it starts; the guest has the host's files under the same paths.
        environment: variables beside PATH, HOME and the locale; nothing comes from the host by itself.
        limit: seconds after which it is ended.
    """

    command: tuple[str, ...]
    directory: Path
    environment: Mapping[str, str]
    limit: int

    def script(self) -> str:
        """Write it as a shell script."""
        variables = {**_ENVIRONMENT, **self.environment}
        return "".join(
            (
                *(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()),
                f"cd {shlex.quote(str(self.directory))} || exit\n",
                f"exec {shlex.join(self.command)}\n",
            )
        )


def boot_command(virtme: Path, kernel: Kernel, shared: Path, limit: int) -> list[str]:
    """Build the command line that boots a guest, which runs `JOB` of the shared directory and powers off.

    Args:
        virtme: the program ``virtme-run``, of the PyPI package virtme-ng.
        kernel: what to boot; virtme finds its modules beside it.
        shared: directory of the host that the guest may write to, as `SHARED`.
        limit: seconds that the job may take.
    """
    command = [str(virtme), "--kimg", str(kernel.image), "--mods", "auto"]
    # Never KVM: a machine that is virtual itself may offer it and then hang. A microvm has no PCI, without which this
    # kernel finds no device.
    command += ["--disable-kvm", "--disable-microvm", "--force-9p", "--disable-monitor", "--show-boot-console"]
    command += ["--cpus", str(PROCESSORS), "--memory", MEMORY]
    command += [word for path in _WRITABLE for word in ("--overlay-rwdir", path)]
    command += [word for option in _KERNEL_OPTIONS for word in ("--kopt", option)]
    command += ["--rwdir", f"{SHARED}={shared}"]
    command += ["--script-sh", shlex.join(["sh", str(_ENTER), SHARED, str(limit), _TAG])]
    # The host's files once more, as virtme mounts its own without a cache.
    return [
        *command,
        "--qemu-opts",
        "-fsdev",
        "local,id=pointsman,path=/,security_model=none,readonly=on,multidevs=remap",
        "-device",
        f"virtio-9p-pci,fsdev=pointsman,mount_tag={_TAG}",
    ]
