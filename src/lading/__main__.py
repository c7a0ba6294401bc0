"""The entry point of the ``lading`` command."""

import sys


def main() -> int:
    """Run the command line; its exit status."""
    sys.stderr.write("lading: no command is built yet\n")
    return 2


if __name__ == "__main__":
    sys.exit(main())
