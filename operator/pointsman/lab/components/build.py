"""Builds what is missing, and says what it is at: ``go build`` alone is silent for minutes."""

from __future__ import annotations

import subprocess
import threading
import time
from typing import TYPE_CHECKING, Final

from pointsman.lab.components import store, toolchain
from pointsman.lab.components.catalogue import COMPONENTS
from pointsman.lab.namespaces import LabError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from pointsman.lab.components.catalogue import Component
    from pointsman.lab.components.toolchain import Toolchain

_PAUSE: Final = 5.0
"""Seconds between two lines of progress."""

_LAST_LINES: Final = 15


def provide(names: Iterable[str], say: Callable[[str], None]) -> dict[str, Path]:
    """Return the paths of programs, and build those that are not there, or are not what was built.

    Args:
        names: of `COMPONENTS`.
        say: is told a line now and then while something is built, and nothing when all is there.

    Raises:
        LabError: there is no such program, Go is missing or too old, or a build failed.
    """
    wanted = [_component(name) for name in names]
    places = {component: _place(component) for component in wanted}
    missing = [component for component in wanted if not store.is_whole(places[component][0])]
    if missing:
        _build_missing(missing, places, say)
    return {component.name: path for component, (path, _) in places.items()}


def _build_missing(
    missing: list[Component], places: dict[Component, tuple[Path, Toolchain]], say: Callable[[str], None]
) -> None:
    say(
        f"building {', '.join(component.name for component in missing)} from their Go modules: all of them take about "
        f"25 minutes on 2 cores, once (kept in {store.home()})"
    )
    with store.locked() as waited:
        for component in missing:
            path, go = places[component]
            if not (waited and store.is_whole(path)):
                _build(component, path, go, say)


def _component(name: str) -> Component:
    if name not in COMPONENTS:
        raise LabError(f"there is no component {name!r}: choose of {', '.join(COMPONENTS)}")
    return COMPONENTS[name]


def _place(component: Component) -> tuple[Path, Toolchain]:
    go = toolchain.find(component.module)
    return store.directory(component, go) / component.name, go


def _build(component: Component, path: Path, go: Toolchain, say: Callable[[str], None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{component.name}.draft")
    command = [go.program, *component.command(), "-o", str(draft), component.package]
    begun = time.monotonic()
    with subprocess.Popen(  # noqa: S603 - a fixed command
        command,
        cwd=component.module.directory,
        env=toolchain.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            lines = _follow(process, lambda count: say(_progress(component, count, time.monotonic() - begun)))
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        said = "\n".join(lines[-_LAST_LINES:])
        verb = component.command()[0]
        raise LabError(f"`go {verb} {component.package}` failed with status {process.returncode}:\n{said}")
    _check_version(component, draft)
    store.put(draft, path)
    say(f"built {component.name} {component.version} in {time.monotonic() - begun:.0f} s")


def _follow(process: subprocess.Popen[str], tell: Callable[[int], None]) -> list[str]:
    """Read what a process says until it ends, and tell how many lines it were every few seconds."""
    lines: list[str] = []

    def read() -> None:
        if process.stderr is not None:
            lines.extend(line.rstrip() for line in process.stderr)

    reader = threading.Thread(target=read, name="go build", daemon=True)
    reader.start()
    while reader.is_alive():
        reader.join(_PAUSE)
        if reader.is_alive():
            tell(len(lines))
    process.wait()
    return lines


def _progress(component: Component, packages: int, seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"building {component.name}: {packages} packages compiled, {minutes}:{rest:02}"


def _check_version(component: Component, program: Path) -> None:
    done = subprocess.run(  # noqa: S603 - what was just built
        [str(program), *component.asks], capture_output=True, text=True, check=False
    )
    if component.version.removeprefix("v") not in done.stdout:
        said = (done.stdout or done.stderr).strip()
        raise LabError(f"{component.name} was built from {component.version}, but says: {said}")
