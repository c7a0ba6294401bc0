"""The entry point of the ``lading`` command: help and dispatch, and nothing that costs time to import.

Everything else is imported once it is known which command runs; ``lading --help`` loads only this file.
"""

import sys

HELP = """\
Usage: lading [OPTIONS] COMMAND

The containerd image store, in Python. Use the docker command for images and containers;
this one is for what docker has no word for.

Commands:
  daemon     Serve the Docker Engine API (takes dockerd's flags)
  store      Show what the store holds, and what it costs
  desktop    Show images, containers and settings in a browser
  gc         Collect garbage now
  why        Tell what keeps a blob alive
  fsck       Check every blob, and repair what can be repaired, the database too
  version    Show the version
  publish    Report a shim's event (run by shims, not by people)

Options:
  -H, --host HOST    Daemon to talk to (default: DOCKER_HOST, else unix:///run/lading/lading.sock)
  -h, --help         Show this text, or that of a command
  -v, --version      Show the version
"""


def main() -> int:
    """Run the command line; its exit status."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        sys.stdout.write(HELP)
        return 0
    if arguments[0] == "daemon":
        from lading.daemon.launch import light_imports  # noqa: PLC0415

        with light_imports("command"):
            from lading.daemon.main import main as daemon  # noqa: PLC0415

        return daemon(arguments[1:])
    if arguments[0] == "publish" or (arguments[0].startswith("-") and "publish" in arguments[1:3]):
        from lading.daemon.publish import main as publish  # noqa: PLC0415

        return publish(arguments)
    from lading.cli.main import main as client  # noqa: PLC0415

    return client(arguments)


if __name__ == "__main__":
    sys.exit(main())
