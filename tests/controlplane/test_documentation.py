"""What the documentation says of the API server's answers, tried on a real one with the webhook before it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml

from pointsman.api.proxyconfig import ProxyConfig
from support.operated import CONFIGS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman.lab.controlplane.cluster import LiveCluster

DOCS: Final = Path(__file__).parents[2] / "docs"
NAME: Final = "documented"
NOWHERE: Final = {"matchLabels": {"pointsman-test": "nowhere"}}
"""So that no node changes."""


def page(name: str) -> str:
    return (DOCS / f"{name}.md").read_text("utf-8")


def blocks(text: str, language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


CHANGING_MODES: Final = page("changing-modes")
PATCHES: Final = re.findall(r"kubectl patch pxc default --type merge -p '(.*)'", CHANGING_MODES)
(WITH_SCHEDULER,) = (patch for patch in PATCHES if "scheduler" in patch)
MODE: Final = json.loads(WITH_SCHEDULER)["spec"]["mode"]


@pytest.fixture
def hashing(cluster: LiveCluster) -> Iterator[LiveCluster]:
    """A ProxyConfig with a scheduler that the mode of the documented patch lacks."""
    spec = {"nodeSelector": NOWHERE, "scheduler": "mh"}
    cluster.plane.apply(
        [{"apiVersion": "pointsman.dev/v1alpha1", "kind": "ProxyConfig", "metadata": {"name": NAME}, "spec": spec}]
    )
    yield cluster
    cluster.plane.api.delete(f"{CONFIGS}/{NAME}")


def patch(cluster: LiveCluster, text: str) -> subprocess.CompletedProcess[str]:
    return cluster.plane.try_kubectl("patch", "pxc", NAME, "--type", "merge", "-p", text)


def test_a_mode_without_the_scheduler_is_refused_in_the_words_of_the_page(hashing: LiveCluster) -> None:
    done = patch(hashing, json.dumps({"spec": {"mode": MODE}}))
    (words,) = re.findall(r"`(spec\.scheduler: [^`]*)`", CHANGING_MODES)
    assert done.returncode == 1
    assert words in done.stderr
    assert re.search(rf"mode {MODE}: .*random", done.stderr), "those that the mode has"


@pytest.mark.parametrize(
    ("text", "scheduler"),
    [(WITH_SCHEDULER, json.loads(WITH_SCHEDULER)["spec"]["scheduler"])]
    + [(json.dumps({"spec": {"mode": mode, "scheduler": None}}), None) for mode in ("iptables", "userspace", "ipvs")],
)
def test_both_fields_change_in_one_step(hashing: LiveCluster, text: str, scheduler: str | None) -> None:
    done = patch(hashing, text)
    assert done.returncode == 0, done.stderr
    stored = hashing.plane.api.get(f"{CONFIGS}/{NAME}")["spec"]
    assert (stored["mode"], stored.get("scheduler")) == (json.loads(text)["spec"]["mode"], scheduler)


def test_a_mode_of_ones_own_is_taken_with_a_warning(cluster: LiveCluster) -> None:
    (example,) = (block for block in blocks(page("extending"), "yaml") if "kind: ProxyConfig" in block)
    document = yaml.safe_load(example)
    document["metadata"]["name"] = NAME
    done = cluster.plane.try_kubectl("apply", "--dry-run=server", "-o", "json", "-f", "-", stdin=json.dumps(document))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["spec"].items() >= document["spec"].items()
    assert f"Warning: spec.mode: {document['spec']['mode']} is none of Pointsman's own" in done.stderr


def migrate(text: str) -> str:
    """Run `pointsman migrate -` as in a pipe."""
    command = (sys.executable, "-m", "pointsman", "migrate", "-", "--name", NAME)
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


def config_map(text: str) -> str:
    """Write a ConfigMap as kubeadm's."""
    head = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kube-proxy", "namespace": "kube-system"}}
    return yaml.safe_dump({**head, "data": {"config.conf": text, "kubeconfig.conf": "apiVersion: v1\nkind: Config\n"}})


KUBE_PROXY: Final = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
(DOCUMENTED,) = (block for block in blocks(page("migrate"), "yaml") if block.startswith(KUBE_PROXY))


@pytest.mark.parametrize(
    "text",
    [
        DOCUMENTED,
        config_map(DOCUMENTED),
        KUBE_PROXY,
        *(f"{KUBE_PROXY}mode: {mode}\nnodePortAddresses: [primary]\n" for mode in ("nftables", "ipvs", "iptables")),
    ],
    ids=["documented", "config map", "nothing", "nftables", "ipvs", "iptables"],
)
def test_the_api_server_takes_what_migrate_prints(cluster: LiveCluster, text: str) -> None:
    printed = migrate(text)
    done = cluster.plane.try_kubectl("apply", "--dry-run=server", "-o", "json", "-f", "-", stdin=printed)
    assert done.returncode == 0, done.stderr
    assert "unknown field" not in done.stderr
    stored: dict[str, Any] = json.loads(done.stdout)
    assert ProxyConfig.read(stored).spec == ProxyConfig.read(yaml.safe_load(printed)).spec
