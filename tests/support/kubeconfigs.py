"""Kubeconfig files with users of every form."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

SERVER = "http://10.0.0.1:6443"
OTHER_SERVER = "http://10.0.0.2:6443"
EXEC_API = "client.authentication.k8s.io/v1"


def kubeconfig(directory: Path, user: dict[str, Any], **cluster: str) -> Path:
    """Write a kubeconfig (JSON is YAML): `user`, in the contexts "lab" (the current one) and "other"."""
    file = directory / "kubeconfig"
    document = {
        "current-context": "lab",
        "contexts": [
            {"name": "lab", "context": {"cluster": "lab", "user": "agent"}},
            {"name": "other", "context": {"cluster": "other", "user": "agent"}},
        ],
        "clusters": [
            {"name": "lab", "cluster": {"server": SERVER, **cluster}},
            {"name": "other", "cluster": {"server": OTHER_SERVER}},
        ],
        "users": [{"name": "agent", "user": user}],
    }
    file.write_text(json.dumps(document))
    return file


def plugin(directory: Path, status: dict[str, Any]) -> dict[str, Any]:
    """Write an exec plugin; return the user whose it is.

    It answers `status`, with the number of its run in place of ``RUN``.
    """
    answer = json.dumps({"apiVersion": EXEC_API, "kind": "ExecCredential", "status": status})
    script = directory / "plugin.py"
    script.write_text(
        "from pathlib import Path\n"
        f"runs = Path({str(directory / 'runs')!r})\n"
        "run = len(runs.read_text()) + 1 if runs.exists() else 1\n"
        "runs.write_text('x' * run)\n"
        f"print({answer!r}.replace('RUN', str(run)))\n"
    )
    return {"exec": {"apiVersion": EXEC_API, "command": sys.executable, "args": ["-S", str(script)]}}
