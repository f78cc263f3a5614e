"""``python -m seresnet``, and the ``seresnet`` command."""

import sys


def main() -> None:
    """Run the command line of this process, and leave with its exit code."""
    from seresnet.cli import run
    from seresnet.cli.streams import prepare

    prepare()
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
