"""Where the program begins: ``pointsman`` and ``python -m pointsman``."""

from __future__ import annotations


def main() -> None:
    """Run the command line."""
    from pointsman.cli.app import app  # noqa: PLC0415 (importing this module does nothing)

    app()


if __name__ == "__main__":
    main()
