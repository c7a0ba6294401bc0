"""Network namespaces of tests: the machine's own network is never touched."""

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from lading.kit import linux

T = TypeVar("T")


class Netns:
    """A network namespace that stands for a machine's network."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def run(self, *command: str, input: str | None = None, check: bool = True) -> str:
        """Run a program in it; its standard output."""
        done = subprocess.run(
            ["nsenter", f"--net={self.path}", *command],
            input=input,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        if check and done.returncode:
            raise AssertionError(f"{command}: {done.stderr}")
        return done.stdout

    def call(self, function: Callable[[], T]) -> T:
        """Call a function on a thread in it, e.g. to open a socket there."""
        return inside(self.path, function)

    def links(self) -> list[dict[str, Any]]:
        """Interfaces but loopback, with their addresses."""
        return [each for each in json.loads(self.run("ip", "-j", "addr")) if each["ifname"] != "lo"]

    def rules(self) -> str:
        """All nftables rules."""
        return self.run("nft", "list", "ruleset")

    def wrapper(self, directory: Path, program: str) -> str:
        """A script that runs a program in it."""
        script = directory / Path(program).name
        script.write_text(f'#!/bin/sh\nexec nsenter --net={self.path} {program} "$@"\n')
        script.chmod(0o755)
        return str(script)


def inside(path: Path | str, function: Callable[[], T]) -> T:
    """Call a function on a thread in the network namespace at a path."""
    results: list[T] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                linux.enter_network_namespace(fd)
            finally:
                os.close(fd)
            results.append(function())
        except BaseException as exc:
            errors.append(exc)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


@contextlib.contextmanager
def new_netns() -> Generator[Netns]:
    """A network namespace with loopback up; gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="lading-netns-") as name:
        path = Path(name) / "net"
        linux.make_network_namespace(str(path))
        try:
            yield Netns(path)
        finally:
            linux.remove_network_namespace(str(path))


def addresses(links: list[dict[str, Any]]) -> Mapping[str, set[str]]:
    """Interface to its addresses with prefix."""
    return {each["ifname"]: {f"{a['local']}/{a['prefixlen']}" for a in each["addr_info"]} for each in links}


def netavark() -> str | None:
    """Where netavark is installed."""
    from lading.network.netavark import PLACES

    return shutil.which("netavark", path=os.pathsep.join((*PLACES, os.environ.get("PATH", ""))))
