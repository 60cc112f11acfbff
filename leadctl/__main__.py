"""``leadctl`` and ``python -m leadctl``."""

import sys


def main() -> int:
    """Run the command line; ``--version`` needs none of it."""
    arguments = sys.argv[1:]
    if arguments == ["--version"]:
        from leadctl import __version__

        print(f"leadctl {__version__}")  # noqa: T201  the command line's own output
        return 0
    from leadctl.cli.garbage import starting

    starting()
    from leadctl.cli.app import main as run

    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
