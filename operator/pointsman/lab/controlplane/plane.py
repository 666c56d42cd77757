"""etcd, API server and controllers on a host of a lab's network."""

from __future__ import annotations

import json
import shlex
import subprocess
from typing import TYPE_CHECKING, Any, Final

from pointsman.lab import records
from pointsman.lab.components.build import provide
from pointsman.lab.controlplane import commands, definitions, etcd, keys, kubeconfigs
from pointsman.lab.controlplane.api import Api, ApiAwayError, ApiRefusedError, Document
from pointsman.lab.daemon import Daemon
from pointsman.lab.namespaces import LabError, Namespace
from pointsman.lab.network import Network

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path
    from types import TracebackType
    from typing import Self

PROGRAMS: Final = ("etcd", "kube-apiserver", "kube-controller-manager", "kubectl")

_PATIENCE: Final = 60.0
"""Seconds that a component gets to be ready, on a machine that has much else to do."""

_TOKEN_SECONDS: Final = 30 * 24 * 3600


class KubectlError(LabError):
    """kubectl failed.

    Attributes:
        said: what it wrote to standard error.
        status: its exit status.
    """

    def __init__(self, arguments: Iterable[str], done: subprocess.CompletedProcess[str]) -> None:
        self.said = done.stderr.strip()
        self.status = done.returncode
        super().__init__(f"`kubectl {' '.join(arguments)}` failed with status {done.returncode}: {self.said}")


class ControlPlane:
    """A running control plane with a network of its own, to which nodes can be added; a context manager.

    Attributes:
        network: its network; the host ``control-plane`` is there, and a router.
        files: its directory: ``logs``, ``pki``, kubeconfigs.
        api: requests as administrator.
        kubeconfig: of the administrator.
        etcd, api_server, controllers: the programs.
    """

    def __init__(
        self, settings: commands.Settings | None = None, *, say: Callable[[str], None] = lambda _: None
    ) -> None:
        """Build what is missing, make network and files; nothing runs yet.

        Args:
            settings: see there.
            say: is told the progress of a build.

        Raises:
            LabError: the programs cannot be built, or the kernel refuses.
        """
        self.settings = settings or commands.Settings()
        programs = provide(PROGRAMS, say)
        self.network = Network()
        self.files = records.make(self.network.prefix)
        self.kubeconfig = self.files / "admin.kubeconfig"
        self._kubectl = programs["kubectl"]
        self.kept = False
        try:
            for name in ("logs", "pki", "tokens"):
                (self.files / name).mkdir()
            (self.files / "audit.yaml").write_text(commands.AUDIT_POLICY, "utf-8")
            host = self.network.client("control-plane", commands.ADDRESS)
            self.network.build()
            self.namespace: Namespace = host.namespace
            self.authority = keys.write(self.files, self.settings.service_cidr)
            self.api = Api.of_administrator(self.namespace, self.files / "pki")
            self.etcd = self._daemon("etcd", commands.etcd(programs["etcd"], self.files))
            self.api_server = self._daemon(
                "kube-apiserver", commands.kube_apiserver(programs["kube-apiserver"], self.files, self.settings)
            )
            self.controllers = self._daemon(
                "kube-controller-manager",
                commands.kube_controller_manager(programs["kube-controller-manager"], self.files, self.settings),
            )
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start everything, and wait until Pods can be made.

        Raises:
            LabError: a component ended or is not ready in time; the message holds the end of its log.
        """
        self.etcd.start()
        self.api_server.start()
        self._wait_for_api_server()
        self.controllers.start()
        self.wait_for_service_account("default", "default")

    def close(self) -> None:
        """End everything and remove every trace, unless it is kept."""
        if self.kept:
            return
        self.network.close()  # with the processes in its namespaces
        for daemon in self.daemons():
            daemon.kill()
        records.forget(self.network.prefix)

    def daemons(self) -> tuple[Daemon, ...]:
        """Return the programs, in the order of their start; before they are made, none."""
        names = ("etcd", "api_server", "controllers")
        return tuple(getattr(self, name) for name in names if hasattr(self, name))

    def kill_api_server(self) -> None:
        """End the API server with SIGKILL: clients see their connections broken, new ones refused."""
        self.api_server.kill()

    def start_api_server(self) -> None:
        """Start the API server again, and wait until it is ready."""
        self.api_server.start()
        self._wait_for_api_server()

    def restart_controllers(self) -> None:
        """Start the controllers anew, as a real cluster does when they have lost their Lease for want of an API server.

        Those that go on ask less and less often: after a minute without an answer it can take them half a minute more.
        """
        self.controllers.kill()
        self.controllers.start()

    def compact(self) -> int:
        """Make etcd forget all revisions before the newest.

        The API server's own cache does not forget: it is killed, then this is called, then it is started again, and a
        watch or a paged list from an old resourceVersion is answered with 410.

        Returns:
            The newest revision.
        """
        return etcd.compact(self.namespace)

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl as administrator and return its output.

        Raises:
            KubectlError: it failed.
        """
        done = self.try_kubectl(*arguments, stdin=stdin)
        if done.returncode:
            raise KubectlError(arguments, done)
        return done.stdout

    def try_kubectl(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run kubectl as administrator, whatever comes of it; warnings are in its standard error."""
        with self.namespace.entered():
            return subprocess.run(  # noqa: S603 - a program of ours
                self.kubectl_command(*arguments), input=stdin or "", capture_output=True, text=True, check=False
            )

    def kubectl_command(self, *arguments: str) -> list[str]:
        """Return the command that runs kubectl, in the namespace of the control plane."""
        options = (f"--kubeconfig={self.kubeconfig}", f"--cache-dir={self.files / 'kubectl-cache'}")
        return [str(self._kubectl), *options, *arguments]

    def write_kubectl_script(self) -> Path:
        """Write a script that runs kubectl as administrator where the control plane is; returns its path."""
        script = self.files / "kubectl"
        command = ["nsenter", f"--net={self.namespace.path}", *self.kubectl_command()]
        script.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n', "utf-8")
        script.chmod(0o700)
        return script

    def apply(self, objects: Iterable[Mapping[str, Any]]) -> None:
        """Make or change objects with kubectl, server-side.

        Raises:
            KubectlError: one is refused.
        """
        items = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(items))

    def wait_for_definitions(self) -> None:
        """Wait until the API server offers all custom resources whose definitions are there.

        ``kubectl wait --for=condition=Established`` fails at once where a definition has no conditions yet, and is
        done before the API server knows the resource.

        Raises:
            LabError: it does not in time.
        """
        self.api_server.wait_until(
            lambda: definitions.are_offered(self.api), "does not offer all custom resources", patience=_PATIENCE
        )

    def wait_for_service_account(self, namespace: str, name: str) -> None:
        """Wait until a ServiceAccount is there, without which no Pod of it is admitted."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}"
        self.controllers.wait_until(
            lambda: self._answers(path), f"has not made the ServiceAccount {namespace}/{name}", patience=_PATIENCE
        )

    def service_account(self, namespace: str, name: str) -> Path:
        """Write a kubeconfig for a ServiceAccount, whose token is in a file.

        Returns:
            The kubeconfig.

        Raises:
            ApiRefusedError: there is no such ServiceAccount.
        """
        kubeconfig = self.files / f"{namespace}.{name}.kubeconfig"
        token = self.renew_token(namespace, name)
        kubeconfig.write_text(kubeconfigs.with_token_file(self.authority.certificate, token), "utf-8")
        return kubeconfig

    def renew_token(self, namespace: str, name: str, *, seconds: int = _TOKEN_SECONDS) -> Path:
        """Ask for a new token for a ServiceAccount and replace its file in one step, as a kubelet does.

        Args:
            namespace: of the ServiceAccount.
            name: of the ServiceAccount.
            seconds: how long it is good; 600 or more.

        Returns:
            The file.
        """
        request: Document = {"spec": {"expirationSeconds": seconds}}
        answer = self.api.create(f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token", request)
        file = self.files / "tokens" / f"{namespace}.{name}"
        draft = file.with_suffix(".draft")
        draft.write_text(answer["status"]["token"], "ascii")
        draft.rename(file)
        return file

    def user(self, name: str, *groups: str) -> Path:
        """Write a kubeconfig for a user with a certificate; RBAC gives it what its name and groups are bound to."""
        kubeconfig = self.files / f"{name}.kubeconfig"
        pair = self.authority.client(name, *groups)
        kubeconfig.write_text(kubeconfigs.with_certificate(self.authority.certificate, pair), "utf-8")
        return kubeconfig

    def _wait_for_api_server(self) -> None:
        self.api_server.wait_until(self.api.is_ready, "is not ready", patience=_PATIENCE)

    def _answers(self, path: str) -> bool:
        try:
            return self.api.find(path) is not None
        except (ApiAwayError, ApiRefusedError):
            return False

    def _daemon(self, name: str, command: list[str]) -> Daemon:
        return Daemon(name, self.namespace, command, self.files / "logs" / f"{name}.log")
