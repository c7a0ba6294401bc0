"""Debian's docker-registry for the measurements, on loopback or behind a link of a given rate."""

import contextlib
import os
import pathlib
import re
import socket
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self

import engines

_SENT = re.compile(r'"GET /v2/\S+/blobs/(sha256:[0-9a-f]{64}) [^"]*" 20[06] ([0-9]+)')
"""A line of the access log about a blob that was sent: its digest and how many bytes went."""


@dataclass(slots=True)
class Sent:
    """What a registry sent of blobs."""

    requests: Counter[str] = field(default_factory=Counter)
    """By digest."""
    size: int = 0


class Registry:
    """A registry whose storage is on the disk that the engines do not use."""

    def __init__(
        self,
        scratch: pathlib.Path,
        *,
        address: str = "127.0.0.1",
        prefix: tuple[str, ...] = (),
        counted: bool = False,
    ) -> None:
        """With ``counted`` it writes down every request, for `sent`."""
        self._scratch = scratch
        self._counted = counted
        self._address = address
        self._prefix = prefix
        self.host = ""
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        port = 5000
        if not self._prefix:
            with socket.socket() as probe:
                probe.bind((self._address, 0))
                port = probe.getsockname()[1]
        self.host = f"{self._address}:{port}"
        config = self._scratch / f"registry-{port}.yml"
        self._log = self._scratch / f"registry-{port}.log"
        config.write_text(
            f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {self._scratch}/registry}}}}\n"
            f'http: {{addr: "{self.host}"}}\nlog: {{level: error, accesslog: {{disabled: {str(not self._counted).lower()}}}}}\n'
        )
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                [*self._prefix, "docker-registry", "serve", str(config)], stdout=log, stderr=log
            )
        for _ in range(200):
            try:
                urllib.request.urlopen(f"http://{self.host}/v2/").close()
            except OSError:
                time.sleep(0.05)
            else:
                return self
        self.__exit__()
        raise RuntimeError("the registry did not come up")

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait()

    @contextlib.contextmanager
    def sent(self) -> Iterator[Sent]:
        """What it sends meanwhile, filled in at the end. Needs ``counted``."""
        before = self._log.stat().st_size
        found = Sent()
        yield found
        with self._log.open("rb") as log:
            log.seek(before)
            for digest, size in _SENT.findall(log.read().decode(errors="replace")):
                found.requests[digest] += 1
                found.size += int(size)

    def fill(self, layout: pathlib.Path, name: str) -> None:
        """Push an image of an OCI layout."""
        engines.run(
            "skopeo",
            "copy",
            "-q",
            "--all",
            "--dest-tls-verify=false",
            f"oci:{layout}:{name}",
            f"docker://{self.host}/{name}:latest",
        )


@contextlib.contextmanager
def shaped(scratch: pathlib.Path, rate: str) -> Iterator[Registry]:
    """The same storage behind a link: a network namespace whose side of a veth pair has a token bucket (tc-tbf(8))."""
    name = f"lading-bench-{os.getpid()}"
    here, there = f"lb{os.getpid() % 100000}a", f"lb{os.getpid() % 100000}b"
    engines.run("ip", "netns", "add", name)
    try:
        inside = ("ip", "netns", "exec", name)
        engines.run("ip", "link", "add", here, "type", "veth", "peer", "name", there, "netns", name)
        engines.run("ip", "address", "add", "10.231.77.1/30", "dev", here)
        engines.run("ip", "link", "set", here, "up")
        engines.run(*inside, "ip", "address", "add", "10.231.77.2/30", "dev", there)
        engines.run(*inside, "ip", "link", "set", there, "up")
        engines.run(*inside, "tc", "qdisc", "add", "dev", there, "root", "tbf", "rate", rate, "burst", "256k", "latency", "50ms")  # fmt: skip
        with Registry(scratch, address="10.231.77.2", prefix=inside) as registry:
            yield registry
    finally:
        engines.run("ip", "netns", "delete", name)
