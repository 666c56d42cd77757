"""``python -m pointsman.lab.components [NAME…]``: build programs where they are missing, and print their paths."""

from __future__ import annotations

import sys

from pointsman.lab.components.build import provide
from pointsman.lab.components.catalogue import COMPONENTS
from pointsman.lab.namespaces import LabError


def main(names: list[str]) -> int:
    """Build what is named (everything when nothing is); progress goes to standard error.

    Returns:
        The exit status.
    """
    try:
        paths = provide(names or list(COMPONENTS), _say)
    except LabError as error:
        _say(str(error))
        return 1
    except KeyboardInterrupt:
        return 130
    sys.stdout.writelines(f"{path}\n" for path in paths.values())
    return 0


def _say(words: str) -> None:
    sys.stderr.write(f"components: {words}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
