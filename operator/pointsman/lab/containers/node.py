"""One node: containerd and kubelet in the network namespace of a host, with ``/var/lib`` of its own.

They share a mount namespace, so that all that they mount is gone with them, and a control group, by which every process
of theirs is found at the end: also the shims, which outlive containerd on purpose.
"""

from __future__ import annotations

import shlex
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from pointsman.lab import cgroups, namespaces
from pointsman.lab.containers import runtime
from pointsman.lab.daemon import Daemon
from pointsman.lab.namespaces import SYSTEM_PATH, LabError, Namespace

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pointsman.lab.containers.images import Image
    from pointsman.lab.containers.runtime import NodeFiles
    from pointsman.lab.network import Host

_PATIENCE: Final = 60.0
_DEFAULT_PATH: Final = "/usr/local/bin:/usr/bin:/bin"


class Identity(msgspec.Struct, frozen=True):
    """How a node's kubelet proves itself, and whom it believes.

    Attributes:
        kubeconfig: the kubelet's, as user ``system:node:NAME``.
        authority: certificate of the API server's authority.
        dns: address of the cluster's name server.
    """

    kubeconfig: Path
    authority: Path
    dns: str


class Node:
    """A node of a cluster; `start` it, `close` it.

    Attributes:
        host: where it lives in the lab's network.
        pod_cidr: addresses of its Pods.
        kubelet, containerd: its programs, which can be killed and started again.
    """

    def __init__(self, host: Host, pod_cidr: str, files: NodeFiles, identity: Identity, *, kubelet: Path) -> None:
        """Write its configuration; nothing runs yet."""
        self.host = host
        self.pod_cidr = pod_cidr
        self._files = files
        self._cgroup = cgroups.name_of(host.namespace.name.removesuffix(host.name), host.name)
        self._join = cgroups.make(self._cgroup)
        self._write_files(identity)
        self._holder = self._daemon("mounts", self._in_group(*self._hold()))
        self.containerd = self._daemon("containerd")
        self.kubelet = self._daemon("kubelet")
        self._kubelet = kubelet
        self._identity = identity

    def start(self, images: Iterable[Image]) -> None:
        """Start everything, and bring in images; the node is ready when the API server says so.

        Raises:
            LabError: a program ended, or is not ready in time; the message holds the end of its log.
        """
        self._holder.start()
        ready = self._files.state / "mounts.ready"
        self._holder.wait_until(ready.exists, "has not been made", patience=_PATIENCE)
        self.containerd.command = self._inside(
            namespaces.find_program("containerd"), "--config", f"{self._files.state}/containerd.toml"
        )
        self.containerd.start()
        self.containerd.wait_until(self._answers, "does not answer", patience=_PATIENCE)
        for image in images:
            self.bring(image)
        self.kubelet.command = self._inside(
            str(self._kubelet),
            f"--config={self._files.state}/kubelet.yaml",
            f"--kubeconfig={self._identity.kubeconfig}",
            f"--hostname-override={self.host.name}",
            f"--node-ip={self.host.address()}",
            "--root-dir=/var/lib/kubelet",
            f"--cert-dir={self._files.state}/kubelet-pki",
            "--v=1",
        )
        self.kubelet.start()

    def bring(self, image: Image) -> None:
        """Import an image (``docker-archive``), as if it had been pulled.

        Raises:
            LabError: containerd refuses.
        """
        self.ctr("images", "import", str(image.archive))

    def ctr(self, *arguments: str) -> str:
        """Ask containerd, in the namespace of Kubernetes' containers."""
        return namespaces.run("ctr", "--address", str(self._files.socket), "--namespace", "k8s.io", *arguments)

    @property
    def data(self) -> Path:
        """What is ``/var/lib`` on it."""
        return self._files.data

    def pod(self, uid: str) -> Namespace:
        """Return the network namespace of a Pod that runs here, to send packets from.

        Raises:
            LabError: it does not run.
        """
        return PodNamespace(self.process(uid))

    def process(self, uid: str, container: str = "") -> int:
        """Return the process ID of a container, as this machine sees it.

        Args:
            uid: of its Pod.
            container: its name; any of the Pod when empty.

        Raises:
            LabError: it does not run.
        """
        of_pod = f'labels."io.kubernetes.pod.uid"=={uid}'
        of_container = f',labels."io.kubernetes.container.name"=={container}' if container else ""
        tasks = [line.split() for line in self.ctr("tasks", "list").splitlines()[1:]]
        running = {name: int(process) for name, process, state, *_ in tasks if state == "RUNNING"}
        for found in self.ctr("containers", "list", "--quiet", of_pod + of_container).split():
            if found in running:
                return running[found]
        raise LabError(f"{container or 'no container'} of the Pod {uid} runs on {self.host.name}")

    def close(self) -> None:
        """End all of its processes, its Pods included; what it mounted is gone with them."""
        for daemon in (self.kubelet, self.containerd, self._holder):
            daemon.kill()
        cgroups.sweep(self._cgroup)

    def _write_files(self, identity: Identity) -> None:
        files = self._files
        files.networks.mkdir(parents=True)
        files.data.mkdir(parents=True)
        (files.state / "resolv.conf").write_text("# nobody beyond the cluster is asked\n", "ascii")
        (files.networks / "lab.conflist").write_text(runtime.network(self.pod_cidr), "utf-8")
        (files.state / "containerd.toml").write_text(runtime.containerd(files), "utf-8")
        configuration = runtime.kubelet(files, authority=identity.authority, cgroup=self._cgroup, dns=identity.dns)
        (files.state / "kubelet.yaml").write_text(configuration, "utf-8")

    def _hold(self) -> tuple[str, ...]:
        """Return the command that makes the mount namespace and holds it open."""
        state, data = (shlex.quote(str(path)) for path in (self._files.state, self._files.data))
        script = (
            "set -e; mount --make-rshared /; "
            f"mount --bind {data} /var/lib; "
            "mount -t tmpfs tmpfs /run/netns; "  # containerd keeps the namespaces of Pods there
            f"touch {state}/mounts.ready; exec sleep infinity"
        )
        return ("unshare", "--mount", "--propagation", "private", "sh", "-c", script)

    def _inside(self, *command: str) -> list[str]:
        """Return the command that runs another in the node's mount namespace and control group."""
        return self._in_group("nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt", "--", *command)

    def _in_group(self, *command: str) -> list[str]:
        return ["sh", "-c", f'echo $$ > {shlex.quote(str(self._join))} && exec "$@"', "sh", *command]

    def _daemon(self, name: str, command: Sequence[str] = ()) -> Daemon:
        """Prepare a program; those that enter the mount namespace get their command when that is there."""
        return Daemon(
            f"{name} of {self.host.name}",
            self.host.namespace,
            command,
            self._files.state / f"{name}.log",
            environment={"PATH": f"{_DEFAULT_PATH}:{SYSTEM_PATH}"},
        )

    def _answers(self) -> bool:
        try:
            self.ctr("version")
        except LabError:
            return False
        return True


class PodNamespace(Namespace):
    """The network namespace of a process, which has no name."""

    def __init__(self, process: int) -> None:
        super().__init__(f"of process {process}")
        self.path = Path(f"/proc/{process}/ns/net")


def start_all(nodes: Iterable[Node], images: Iterable[Image]) -> None:
    """Start nodes side by side: most of it is unpacking images."""
    some = tuple(images)
    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(node.start, some) for node in nodes]:
            done.result()
