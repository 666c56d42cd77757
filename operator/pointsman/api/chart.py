"""Writes what of `charts/pointsman` comes from elsewhere: ``python -m pointsman.api.chart [--write [DIR]]``.

The templates are written by hand. Chart.yaml, values, their schema, README, CustomResourceDefinitions, permissions,
webhooks and the dashboard are made here, each from its one source.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from pointsman import __version__
from pointsman.api import crds, permissions
from pointsman.api.chart_dashboard import dashboard_file
from pointsman.api.chart_pages import MADE, readme_file, values_file
from pointsman.api.chart_schema import schema_file
from pointsman.api.names import GROUP, VERSION, WEBHOOK_SERVICE
from pointsman.api.webhooks import webhook_configuration

if TYPE_CHECKING:
    from collections.abc import Sequence

DIRECTORY: Final = Path("charts/pointsman")

_CHART: Final = {
    "apiVersion": "v2",
    "name": "pointsman",
    "description": "A Kubernetes Service proxy that asks the kernel for less: a replacement for kube-proxy, in Python",
    "type": "application",
    "version": __version__,
    "appVersion": __version__,
    "kubeVersion": ">=1.31.0-0",
    "keywords": ["kubernetes", "kube-proxy", "nftables", "ipvs", "service-proxy", "network"],
    "annotations": {
        "artifacthub.io/category": "networking",
        "artifacthub.io/license": "Apache-2.0",
        "artifacthub.io/operator": "true",
        "artifacthub.io/prerelease": "true",
        "artifacthub.io/crds": yaml.safe_dump(
            [
                {
                    "kind": resource.part.__name__,
                    "version": VERSION,
                    "name": f"{resource.plural}.{GROUP}",
                    "displayName": resource.part.__name__,
                    "description": (resource.part.__doc__ or "").partition("\n")[0],
                }
                for resource in crds.RESOURCES
            ],
            sort_keys=False,
        ),
    },
}


def files() -> dict[str, str]:
    """Return the text of each file that is made here, by its path in the chart."""
    return {
        "Chart.yaml": _yaml(_CHART),
        "README.md": readme_file(),
        "values.yaml": values_file(),
        "values.schema.json": schema_file(),
        "files/dashboard.json": dashboard_file(),
        "files/permissions.yaml": _yaml(_permissions()),
        "files/webhooks.yaml": _yaml(_webhooks()),
        **{f"crds/{name}": text for name, text in crds.files().items()},
    }


def _permissions() -> dict[str, Any]:
    """Return the rules of each account, by its component."""
    accounts = (permissions.AGENT, permissions.OPERATOR, permissions.UNINSTALLER, permissions.CRDS)
    return {
        account.component: {
            "cluster": [rule.document() for rule in account.cluster],
            "namespaced": [rule.document() for rule in account.namespaced],
        }
        for account in accounts
    }


def _webhooks() -> dict[str, Any]:
    """Return the ValidatingWebhookConfiguration with its defaults; a template puts the release's namespace in."""
    namespace = permissions.NAMESPACE
    service = {"name": WEBHOOK_SERVICE, "namespace": namespace}
    return webhook_configuration(client_config={"service": service}, namespace=namespace)


def _yaml(document: object) -> str:
    return f"# {MADE}\n" + yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=118)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the names of the chart's files that are made, or write these with ``--write``."""
    parser = argparse.ArgumentParser(prog="python -m pointsman.api.chart", description=main.__doc__)
    parser.add_argument(
        "--write", nargs="?", const=DIRECTORY, type=Path, metavar="DIR", help=f"write into DIR (default: {DIRECTORY})"
    )
    directory: Path | None = parser.parse_args(arguments).write
    if directory is None:
        sys.stdout.write("".join(f"{name}\n" for name in files()))
        return
    for name, text in files().items():
        target = directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
