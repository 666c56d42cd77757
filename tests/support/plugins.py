"""Packages that extend Pointsman, as if they were installed: nothing is written into the environment of the tests."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

TOY = Path(__file__).parents[1] / "plugins" / "pointsman-toy"
"""The example of `docs/extending.md`."""


def installed(project: Path, site: Path) -> tuple[str, str]:
    """Write what an installer would say of a project, as its `pyproject.toml` has it.

    Args:
        project: the folder of the project, which is left alone.
        site: a folder for the metadata.

    Returns:
        What has to be on `sys.path`.
    """
    described = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))["project"]
    metadata(site, described["name"], described["version"], described["entry-points"])
    return str(project), str(site)


def metadata(site: Path, name: str, version: str, groups: Mapping[str, Mapping[str, str]]) -> None:
    """Write the metadata of an installed distribution (https://packaging.python.org/specifications/entry-points/)."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", "utf-8")
    lines = [
        line
        for group, points in groups.items()
        for line in (f"[{group}]", *(f"{point} = {value}" for point, value in points.items()), "")
    ]
    (info / "entry_points.txt").write_text("\n".join(lines), "utf-8")
