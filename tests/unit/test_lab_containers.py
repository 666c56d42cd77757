"""What the lab's real nodes are made from; the nodes themselves are tested by running a cluster."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml

from pointsman.lab import cgroups, namespaces
from pointsman.lab.containers import images, machine, manifests, runtime
from pointsman.lab.containers.images import Image, Images
from pointsman.lab.containers.release import merged
from pointsman.lab.containers.runtime import NodeFiles
from pointsman.lab.namespaces import LabError

FILES = NodeFiles(Path("/run/lab/node-1"), Path("/var/tmp/lab/node-1"))  # noqa: S108 (a name, nothing is there)


def test_each_node_has_files_of_its_own() -> None:
    assert f'address = "{FILES.socket}"' in runtime.containerd(FILES)
    assert f'conf_dir = "{FILES.networks}"' in runtime.containerd(FILES)
    kubelet = yaml.safe_load(runtime.kubelet(FILES, authority=Path("/ca.crt"), cgroup="/lab/node-1", dns="10.96.0.10"))
    assert kubelet["containerRuntimeEndpoint"] == f"unix://{FILES.socket}"
    assert kubelet["cgroupRoot"] == "/lab/node-1"
    assert kubelet["clusterDNS"] == ["10.96.0.10"]


def test_pods_get_addresses_of_their_nodes_network() -> None:
    (plugin,) = json.loads(runtime.network("192.168.7.0/24"))["plugins"]
    assert plugin["ipam"]["ranges"] == [[{"subnet": "192.168.7.0/24"}]]
    assert plugin["ipMasq"] is False  # who masquerades is what is tested


def test_the_name_server_has_the_address_that_kubelets_give_to_pods() -> None:
    documents = manifests.name_server("10.96.0.10")
    (service,) = (document for document in documents if document["kind"] == "Service")
    assert service["spec"]["clusterIP"] == "10.96.0.10"
    assert {port["protocol"] for port in service["spec"]["ports"]} == {"UDP", "TCP"}


def test_values_are_put_over_others_key_by_key() -> None:
    lower = {"image": {"tag": "lab", "pullPolicy": "Never"}, "agent": {"a": 1}}
    upper = {"image": {"tag": "new"}, "agent": 2, "more": []}
    assert merged(lower, upper) == {"image": {"tag": "new", "pullPolicy": "Never"}, "agent": 2, "more": []}
    assert lower["image"]["tag"] == "lab"


def test_missing_programs_are_named_by_their_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def find(name: str) -> str:
        if name in {"ctr", "containerd", "busybox"}:
            raise LabError(name)
        return name

    monkeypatch.setattr(namespaces, "find_program", find)
    monkeypatch.setattr(machine, "CNI_PLUGINS", tmp_path)
    assert machine.missing_packages() == ["busybox-static", "containerd", "containernetworking-plugins"]


def test_a_program_that_needs_libraries_is_no_static_one() -> None:
    assert not machine.is_static(Path(sys.executable).resolve())
    assert machine.is_static(Path(namespaces.find_program("ldconfig")))  # the one that every Debian has


def test_a_plain_user_is_told_to_become_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(LabError, match="need the real root user"):
        machine.check()


class Builder(Images):
    """Builds by writing a file down."""

    def __init__(self, home: Path) -> None:
        super().__init__({}, lambda _: None)
        self._home = home
        self.built: list[str] = []

    def _build(self, image: Image, recipe: Path, context: Path) -> None:  # noqa: ARG002 (as the original)
        self.built.append(image.name)
        image.archive.parent.mkdir(exist_ok=True)
        image.archive.write_text(image.name)


@pytest.fixture
def builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Builder:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return Builder(tmp_path / "images")


def test_an_image_is_built_again_when_its_source_changed_alone(builder: Builder, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "operator/__pycache__").mkdir(parents=True)
    (source / "Dockerfile").write_text("FROM scratch\n")
    (source / "operator/main.py").write_text("one\n")
    first = builder.from_source("localhost/x:1", source, ("operator",))
    (source / "operator/__pycache__/main.pyc").write_text("noise")
    (source / "README.md").write_text("not in the image")
    assert builder.from_source("localhost/x:1", source, ("operator",)) == first
    assert builder.built == ["localhost/x:1"]
    (source / "operator/main.py").write_text("two\n")
    second = builder.from_source("localhost/x:1", source, ("operator",))
    assert second.archive != first.archive
    assert not first.archive.exists()  # the cache does not grow


def test_a_derived_image_follows_the_one_that_it_is_made_from(builder: Builder, tmp_path: Path) -> None:
    one, two = (builder.derived("x:2", Image("x:1", tmp_path / name), "LABEL a=b") for name in ("a", "b"))
    assert one.archive != two.archive


def test_the_mirror_is_the_one_of_debian_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "http://example.org/other\nhttp://example.org/debian-security\nhttp://example.org/debian\n"
    monkeypatch.setattr(namespaces, "run", lambda *_: said)
    assert images.mirror() == "http://example.org/debian"
    monkeypatch.setattr(namespaces, "run", lambda *_: "")
    with pytest.raises(LabError, match="apt knows no mirror"):
        images.mirror()


def test_control_groups_are_named_by_lab_and_node() -> None:
    assert cgroups.name_of("pm1-1-", "node-1") == "/pointsman-lab/pm1-1-/node-1"
    assert cgroups.name_of("pm1-1-") == "/pointsman-lab/pm1-1-"
