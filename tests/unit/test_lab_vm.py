"""Getting a kernel and booting it, with stand-ins for apt, dpkg, depmod and virtme-run that take no time."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

import pytest

from pointsman.lab.namespaces import LabError, is_running
from pointsman.lab.vm import __main__ as program
from pointsman.lab.vm import guest as guests
from pointsman.lab.vm import kernel, machine
from pointsman.lab.vm.apt import kernel_release
from pointsman.lab.vm.command import SHARED, Job, boot_command
from pointsman.lab.vm.guest import LOST, Guest
from pointsman.lab.vm.kernel import Kernel, cached_kernels, prune
from pointsman.lab.waiting import wait_until
from support.guest_stand_in import VIRTME

APT_CACHE = """#!/bin/sh
here=$(dirname "$0")
echo "$@" >> "$here/calls"
case "$*" in
*Dir::State=*) file=$here/own-depends ;;
*) file=$here/depends ;;
esac
cat "$file" || exit 100
"""

APT_GET = """#!/bin/sh
here=$(dirname "$0")
echo "$@" >> "$here/calls"
case "$*" in
*update*) [ ! -e "$here/offline" ] && cp "$here/fresh" "$here/own-depends" ;;
*) for name; do :; done
   if [ -e "$here/gone" ] && [ "$name" = "$(cat "$here/gone")" ]; then echo "404 Not Found" >&2; exit 100; fi
   echo package > "${name}_6.1.192-2_amd64.deb" ;;
esac
"""

DPKG_DEB = """#!/bin/sh
release=$(basename "$2" | sed 's/linux-image-//; s/_.*//')
modules=$3/lib/modules/$release/kernel
mkdir -p "$3/boot" "$modules/drivers/net/ethernet" "$modules/drivers/gpu" "$modules/net" "$modules/sound"
touch "$3/boot/vmlinuz-$release" "$modules/drivers/net/dummy.ko" "$modules/drivers/net/ethernet/e1000.ko"
touch "$modules/drivers/gpu/drm.ko" "$modules/net/ip_vs.ko" "$modules/sound/soundcore.ko"
"""

DEPMOD = """#!/bin/sh
find "$2" -name '*.ko' | sort > "$2/lib/modules/$3/modules.dep"
"""

DEPENDS = "Package: linux-image-amd64\nDepends: linux-image-{} (= 6.1.192-2)\nDescription: Linux for 64-bit PCs\n"


class Machine:
    """A machine with stand-ins, whose state is files beside them."""

    def __init__(self, root: Path) -> None:
        self.files = root / "bin"
        self.files.mkdir()
        self.said: list[str] = []
        stand_ins = {"apt-cache": APT_CACHE, "apt-get": APT_GET, "dpkg-deb": DPKG_DEB, "depmod": DEPMOD}
        for name, text in {**stand_ins, "virtme-run": VIRTME}.items():
            (self.files / name).write_text(text)
            (self.files / name).chmod(0o755)
        self.write("depends", DEPENDS.format("6.1.0-9-amd64"))
        self.write("fresh", DEPENDS.format("6.1.0-10-amd64"))

    def write(self, name: str, text: str = "") -> None:
        (self.files / name).write_text(text)

    def remove(self, name: str) -> None:
        (self.files / name).unlink()

    def calls(self, word: str) -> list[str]:
        path = self.files / "calls"
        return [line for line in path.read_text().splitlines() if word in line] if path.exists() else []

    def provide(self) -> Kernel:
        return kernel.provide(self.said.append)


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path)
    monkeypatch.setenv("PATH", f"{made.files}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(machine, "find_virtme", lambda: made.files / "virtme-run")
    monkeypatch.setattr(machine, "check", lambda: None)
    return made


@pytest.mark.parametrize(
    ("depends", "release"),
    [
        ("Depends: linux-image-6.1.0-56-amd64 (= 6.1.192-2)", "6.1.0-56-amd64"),
        ("Depends: linux-image-6.12.48+deb13-amd64 (= 6.12.48-1)", "6.12.48+deb13-amd64"),
        ("Depends: initramfs-tools, linux-image-6.1.0-9-amd64", "6.1.0-9-amd64"),
    ],
)
def test_the_package_without_a_version_names_the_kernel(depends: str, release: str) -> None:
    assert kernel_release(f"Package: linux-image-amd64\n{depends}\nSection: kernel\n") == release


@pytest.mark.parametrize("description", ["", "Depends: linux-image-6.1.0-56-cloud-amd64-dbg\n", "Depends: libc6\n"])
def test_a_system_without_debians_kernel_is_told(description: str) -> None:
    with pytest.raises(LabError, match="a Debian of architecture amd64 is needed"):
        kernel_release(description)


def test_a_kernel_is_fetched_once(there: Machine, tmp_path: Path) -> None:
    first = there.provide()
    assert first == there.provide() == Kernel("6.1.0-9-amd64", tmp_path / "cache/pointsman/kernels/6.1.0-9-amd64")
    assert first.image.exists()
    assert len(there.calls("download")) == 1
    assert not there.calls("update")
    assert not list(kernel.home().glob(".draft-*"))
    assert [words.split(" (")[0].split(":")[0] for words in there.said] == [
        "downloading linux-image-6.1.0-9-amd64",
        "linux-image-6.1.0-9-amd64 is there",
    ]


def test_only_modules_that_a_guest_can_use_are_kept(there: Machine) -> None:
    modules = there.provide().modules
    kept = ["drivers/net/dummy.ko", "net/ip_vs.ko"]
    assert sorted(str(path.relative_to(modules / "kernel")) for path in modules.rglob("*.ko")) == kept
    assert len((modules / "modules.dep").read_text().splitlines()) == len(kept)


def test_pruning_keeps_files_of_kept_directories(tmp_path: Path) -> None:
    for name in ("virtio/virtio_pci.ko", "net/vxlan/vxlan.ko.xz", "char/virtio_console.ko", "char/lp.ko"):
        path = tmp_path / "kernel/drivers" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    prune(tmp_path)
    assert {path.name for path in tmp_path.rglob("*.ko*")} == {"virtio_pci.ko", "vxlan.ko.xz", "virtio_console.ko"}


def test_a_package_that_the_systems_lists_name_and_is_gone_is_looked_for_in_new_lists(there: Machine) -> None:
    there.write("gone", "linux-image-6.1.0-9-amd64")
    assert there.provide().release == "6.1.0-10-amd64"
    (update,) = there.calls("update")
    assert f"Dir::State={kernel.home() / 'apt'}" in update
    assert (kernel.home() / "apt/lists/partial").is_dir()


def test_a_system_without_lists_gets_its_own(there: Machine) -> None:
    there.remove("depends")
    assert there.provide().release == "6.1.0-10-amd64"


def test_without_a_network_the_newest_of_the_cache_serves(there: Machine) -> None:
    there.provide()
    there.write("depends", DEPENDS.format("6.1.0-10-amd64"))
    there.provide()
    there.write("depends", DEPENDS.format("6.1.0-11-amd64"))
    there.write("gone", "linux-image-6.1.0-11-amd64")
    there.write("offline")
    assert there.provide().release == "6.1.0-10-amd64"
    assert there.said[-1].startswith("6.1.0-10-amd64 of the cache serves, as the newest kernel cannot be had: ")
    assert [found.release for found in cached_kernels()] == ["6.1.0-9-amd64", "6.1.0-10-amd64"]


def test_without_a_network_and_a_cache_it_says_what_failed(there: Machine) -> None:
    there.write("gone", "linux-image-6.1.0-9-amd64")
    there.write("offline")
    with pytest.raises(LabError, match=r"`apt-get update -qq` failed with status 1"):
        there.provide()


def test_a_download_that_was_broken_off_is_cleared_away(there: Machine) -> None:
    draft = kernel.home() / ".draft-old"
    draft.mkdir(parents=True)
    there.provide()
    assert not draft.exists()


def test_the_kernel_is_fetched_by_the_program_alone(there: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main([]) == 0
    assert capsys.readouterr().err.endswith(f"vm: kernel 6.1.0-9-amd64 is there: {there.provide().root}\n")


def test_the_command_line_never_asks_for_hardware_virtualisation() -> None:
    command = boot_command(Path("/venv/bin/virtme-run"), Kernel("6.1", Path("/cache/6.1")), Path("/place/shared"), 60)
    assert command[:3] == ["/venv/bin/virtme-run", "--kimg", "/cache/6.1/boot/vmlinuz-6.1"]
    assert {"--disable-kvm", "--disable-microvm", "--force-9p"} <= set(command)
    assert command[command.index("--rwdir") + 1] == f"{SHARED}=/place/shared"
    script = command[command.index("--script-sh") + 1].split()
    assert Path(script[1]).exists()
    assert script[2:4] == [SHARED, "60"]
    files = command[command.index("-fsdev") + 1]
    assert "readonly=on" in files.split(",")
    assert command.index("--qemu-opts") < command.index("-fsdev"), "virtme-run gives QEMU all that follows"


def test_a_job_is_a_script_that_keeps_words_whole(tmp_path: Path) -> None:
    directory = tmp_path / "it's here"
    directory.mkdir()
    job = Job(("sh", "-c", 'pwd; echo "$0 $1 $WORD"', "a b", "$HOME"), directory, {"WORD": "x 'y'"}, 60)
    done = subprocess.run(["sh", "-c", job.script()], capture_output=True, text=True, check=True)
    assert done.stdout == f"{directory}\na b $HOME x 'y'\n"


def test_packages_are_named_by_the_programs_that_are_missing() -> None:
    assert machine.missing_packages(lambda _: True) == []
    assert machine.missing_packages(lambda program: program not in {"depmod", "modprobe", "udevadm"}) == [
        "kmod",
        "udev",
    ]
    assert machine.missing_packages(lambda program: program != "busybox") == ["busybox-static"]


def test_a_missing_package_is_told_with_its_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("pointsman.lab.namespaces.SYSTEM_PATH", str(tmp_path))
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    with pytest.raises(LabError, match="apt-get install --no-install-recommends busybox-static ipvsadm kmod qemu-syst"):
        machine.check()


def test_another_architecture_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(LabError, match="aarch64"):
        machine.check()


def start(tmp_path: Path, *command: str, limit: int = 60) -> Guest:
    return Guest(Kernel("6.1", tmp_path), Job(command, tmp_path, {}, limit), tmp_path)


@pytest.mark.usefixtures("there")
def test_a_guest_hands_on_its_output_and_its_status(tmp_path: Path) -> None:
    with start(tmp_path, "sh", "-c", "echo one; echo console >&2; printf two; exit 3") as guest:
        assert guest.wait_until_up() == "up after 1.5 s"
        assert [guest.read_line(10), guest.read_line(10), guest.read_line(10)] == ["one", "two", None]
        assert guest.wait() == 3
    assert guest.last_words() == "the end of its console:\nconsole"


@pytest.mark.usefixtures("there")
def test_a_guest_that_does_not_boot_is_told_with_its_console(tmp_path: Path) -> None:
    guest = start(tmp_path, "true")
    (guest.shared / "no-boot").touch()
    with guest, pytest.raises(LabError, match=r"(?s)ended before it was up.*Kernel panic - not syncing"):
        guest.wait_until_up()
    assert guest.wait() == LOST


@pytest.mark.usefixtures("there")
def test_a_guest_that_takes_too_long_to_boot_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guests, "BOOT_PATIENCE", 0.0)
    with (
        start(tmp_path, "sleep", "60") as guest,
        pytest.raises(LabError, match="did not come up: the guest has been s"),
    ):
        guest.wait_until_up()


@pytest.mark.usefixtures("there")
def test_a_guest_that_hangs_is_told_and_ended(tmp_path: Path) -> None:
    with start(tmp_path, "sh", "-c", "echo $$; exec sleep 60") as guest:
        guest.wait_until_up()
        process = int(guest.read_line(10) or 0)
        with pytest.raises(LabError, match="silent for too long"):
            guest.read_line(0)
        assert is_running(process)
    wait_until(lambda: not is_running(process), "its end", patience=10, pause=0.01)


@pytest.mark.usefixtures("there")
def test_a_guest_learns_by_its_input_that_its_host_is_gone(tmp_path: Path) -> None:
    with start(tmp_path, "sh", "-c", "cat; echo alone") as guest:
        guest.wait_until_up()
        assert guest._process.stdin is not None
        guest._process.stdin.close()
        assert guest.read_line(10) == "alone"


@pytest.mark.usefixtures("there")
def test_output_is_passed_on_as_it_comes(tmp_path: Path) -> None:
    sink = io.BytesIO()
    with start(tmp_path, "printf", "no\\r\\n end") as guest:
        guest.wait_until_up()
        guest.relay(sink)
    assert sink.getvalue() == b"no\r\n end"


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("arguments", [["sh", "-c", "exit 7"], ["--limit", "9", "--", "sh", "-c", "exit 7"]])
def test_what_follows_the_command_is_the_commands(arguments: list[str]) -> None:
    assert program.main(arguments) == 7


@pytest.mark.usefixtures("there")
def test_the_program_runs_a_command_and_keeps_results(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    results = tmp_path / "results"
    command = f"echo 5 > {SHARED}/file; echo done; exit 4"
    assert program.main(["--results", str(results), "--", "sh", "-c", command]) == 4
    said = capfdbinary.readouterr()
    assert said.out == b"done\n"
    assert [path.name for path in results.iterdir()] == ["file"]
    assert b"vm: up after 1.5 s" in said.err
