"""Building the control plane's programs, with a stand-in for Go that takes no time."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from pointsman.lab.components import __main__ as program
from pointsman.lab.components import store, toolchain
from pointsman.lab.components.build import provide
from pointsman.lab.components.catalogue import COMPONENTS, ETCD, KUBERNETES
from pointsman.lab.namespaces import LabError

if TYPE_CHECKING:
    from pathlib import Path

GO = """#!/bin/sh
here=$(dirname "$0")
if [ "$1" = env ]; then cat "$here/env"; exit; fi
echo "$CGO_ENABLED $PWD $*" >> "$here/builds"
while [ $# -gt 1 ]; do
  if [ "$1" = -o ]; then out=$2; fi
  shift
done
echo "a/package" >&2
if [ -e "$here/broken" ]; then echo "no such module" >&2; exit 1; fi
printf '#!/bin/sh\\necho %s "$@"\\n' "$(cat "$here/says")" > "$out"
chmod +x "$out"
"""


class Machine:
    """A machine with Go, whose state is files beside it."""

    def __init__(self, root: Path) -> None:
        self.files = root / "bin"
        self.files.mkdir()
        (self.files / "go").write_text(GO)
        (self.files / "go").chmod(0o755)
        self.write("env", "go1.26.1\nlinux\namd64\n")
        self.write("says", f"etcd {ETCD.version} {KUBERNETES.version}")
        self.said: list[str] = []

    def write(self, name: str, text: str) -> None:
        (self.files / name).write_text(text)

    def builds(self) -> list[str]:
        path = self.files / "builds"
        return path.read_text().splitlines() if path.exists() else []

    def provide(self, *names: str) -> dict[str, Path]:
        return provide(names, self.said.append)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path)
    monkeypatch.setenv("PATH", f"{made.files}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return made


def test_a_program_is_built_once(machine: Machine, tmp_path: Path) -> None:
    first = machine.provide("etcd", "kubectl")
    assert first == machine.provide("etcd", "kubectl")
    assert [line.split()[-1] for line in machine.builds()] == [COMPONENTS[name].package for name in first]
    assert all(path.is_relative_to(tmp_path / "cache/pointsman/components") for path in first.values())
    assert not list(tmp_path.glob("cache/**/*.draft"))
    assert [line.split(" in ")[0] for line in machine.said[1:]] == [
        f"built etcd {ETCD.version}",
        f"built kubectl {KUBERNETES.version}",
    ]
    assert "about 25 minutes" in machine.said[0]


def test_it_is_linked_with_its_version_and_without_c(machine: Machine) -> None:
    machine.provide("kube-apiserver")
    (build,) = machine.builds()
    version = "k8s.io/component-base/version"
    assert build.startswith(f"0 {KUBERNETES.directory} build -v -trimpath")
    assert f"-s -w -X {version}.gitVersion=v1.37.2 -X {version}.gitMajor=1 -X {version}.gitMinor=37 " in build


def test_a_program_that_changed_is_built_again(machine: Machine) -> None:
    path = machine.provide("etcd")["etcd"]
    path.write_text("#!/bin/sh\nsomething else\n")
    assert machine.provide("etcd") == {"etcd": path}
    assert store.is_whole(path)
    assert len(machine.builds()) == 2


def test_another_go_builds_again(machine: Machine) -> None:
    first = machine.provide("etcd")
    machine.write("env", "go1.27.0\nlinux\namd64\n")
    assert machine.provide("etcd") != first


def test_a_build_that_fails_says_what_go_said(machine: Machine) -> None:
    machine.write("broken", "")
    with pytest.raises(LabError, match=r"(?s)go build go.etcd.io/\S+ failed with status 1:.*no such module"):
        machine.provide("etcd")


def test_a_program_of_another_version_is_refused(machine: Machine) -> None:
    machine.write("says", "Kubernetes v1.0.0")
    with pytest.raises(LabError, match=r"kubectl was built from v1.37.2, but says: Kubernetes v1.0.0"):
        machine.provide("kubectl")
    with pytest.raises(LabError):
        machine.provide("kubectl")


@pytest.mark.parametrize("version", ["go1.19.8", "go1.25.9", ""])
def test_an_old_go_is_refused_with_the_remedy(machine: Machine, version: str) -> None:
    machine.write("env", f"{version}\nlinux\namd64\n" if version else "")
    with pytest.raises(LabError, match=r"install Go 1\.26\.0 or newer"):
        machine.provide("etcd")


def test_without_go_the_remedy_is_said(machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (machine.files / "go").unlink()
    monkeypatch.setattr(toolchain, "_USUAL_PLACE", tmp_path / "none")
    monkeypatch.setenv("PATH", str(machine.files))
    with pytest.raises(LabError, match=r"`go` is missing.*install Go"):
        machine.provide("etcd")


def test_two_at_once_build_once(machine: Machine) -> None:
    with store.locked():
        threads = [threading.Thread(target=machine.provide, args=("etcd",)) for _ in range(2)]
        for thread in threads:
            thread.start()
    for thread in threads:
        thread.join()
    assert store.is_whole(machine.provide("etcd")["etcd"])
    assert len(machine.builds()) <= 2


def test_an_unknown_program_is_refused(machine: Machine) -> None:
    with pytest.raises(LabError, match="no component 'kubelett': choose of etcd, kube-apiserver"):
        machine.provide("kubelett")


def test_the_command_prints_paths(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["etcd"]) == 0
    out, errors = capsys.readouterr()
    assert out == f"{machine.provide('etcd')['etcd']}\n"
    assert "components: built etcd" in errors
    assert program.main(["kubelett"]) == 1


@pytest.mark.parametrize("component", COMPONENTS.values(), ids=list(COMPONENTS))
def test_every_program_is_a_tool_of_its_module(component: object) -> None:
    assert isinstance(component, type(COMPONENTS["etcd"]))
    text = (component.module.directory / "go.mod").read_text()
    assert component.package in text
    assert (component.module.directory / "go.sum").stat().st_size > 1000
