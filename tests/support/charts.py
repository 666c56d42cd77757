"""The Helm chart, rendered by the real helm."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CHART: Final = Path(__file__).parents[2] / "charts" / "pointsman"
NAMESPACE: Final = "somewhere"
HOST: Final = {"apiServer": {"host": "192.0.2.10"}}

Document = dict[str, Any]


class Chart:
    """Renders the chart as a release ``pointsman`` in the namespace `NAMESPACE`."""

    def __init__(self, helm: Path) -> None:
        self.helm = helm

    def run(self, *arguments: str, values: Mapping[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
        """Run helm, whatever comes of it."""
        command = [str(self.helm), *arguments]
        if values is not None:
            command += ["--values", "-"]
        return subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, check=False)

    def render(self, values: Mapping[str, Any] = HOST, *options: str, namespace: str = NAMESPACE) -> Rendered:
        """Render it; values beside `HOST` have to hold it."""
        done = self.run("template", "pointsman", str(CHART), "--namespace", namespace, *options, values=values)
        assert done.returncode == 0, done.stderr
        return Rendered(done.stdout)

    def refusal(self, values: Mapping[str, Any] = HOST, *options: str) -> str:
        """Return what helm says of values that it refuses."""
        done = self.run("template", "pointsman", str(CHART), "--namespace", NAMESPACE, *options, values=values)
        assert done.returncode != 0, "these were accepted"
        return done.stderr


class Rendered:
    """What came of it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.documents: list[Document] = [found for found in yaml.load_all(text, yaml.CSafeLoader) if found]

    def __iter__(self) -> Iterator[Document]:
        return iter(self.documents)

    def of(self, kind: str) -> dict[str, Document]:
        """Return the objects of a kind, by name."""
        return {found["metadata"]["name"]: found for found in self.documents if found["kind"] == kind}

    def one(self, kind: str) -> Document:
        """Return the only object of a kind."""
        (found,) = self.of(kind).values()
        return found

    def agent(self) -> Document:
        """Return the container of the agent."""
        return container(self.one("DaemonSet"))

    def operator(self) -> Document:
        """Return the container of the operator."""
        return container(self.one("Deployment"))


def container(workload: Mapping[str, Any]) -> Document:
    """Return the only container of what makes Pods."""
    (found,) = workload["spec"]["template"]["spec"]["containers"]
    return dict(found)


def with_value(path: str, value: object, values: Mapping[str, Any] = HOST) -> Document:
    """Return values with one more, by its path as ``agent.sysctls``."""
    first, _, rest = path.partition(".")
    inner = with_value(rest, value, values.get(first, {})) if rest else value
    return {**values, first: inner}
