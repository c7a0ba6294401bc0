"""Configuration of the registry client."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from lading.remotes.dial import Proxies


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Time-outs in seconds, sizes in bytes (hostile-input.md, R rows)."""

    connections: int = 8
    """In use at once, over all hosts."""
    connections_per_host: int = 4
    connect: float = 15.0
    """For name, connection and TLS together."""
    idle: float = 30.0
    """A peer that moves nothing for so long is stalled."""
    keep: float = 60.0
    """An unused connection is closed after this."""
    redirects: int = 10
    attempts: int = 5
    """Of one request on one host; also reconnections of a fetch or push without progress."""
    retry_after: float = 60.0
    """At most so much of a ``Retry-After`` is believed."""
    retry_budget: float = 180.0
    """Waiting in one request, all together."""
    backoff: float = 0.5
    """Before the second attempt; doubles from there."""
    error_body: int = 64 << 10
    token_body: int = 1 << 20
    tags_body: int = 8 << 20
    pages: int = 1000
    """Of one listing."""
    parallel_from: int = 64 << 20
    """Blobs of at least this many remaining bytes may use several connections."""
    parallel_connections: int = 4
    parallel_below: float = 48e6
    """Bytes per second: a single connection that is faster stays alone."""
    parallel_chunk: int = 4 << 20
    single_chunk: int = 32 << 20
    """What one connection asks for at a time while it may still get company."""
    monolithic: int = 4 << 20
    """Blobs up to this size are uploaded by one PUT."""
    upload_chunk: int = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything that `HttpRegistries` is told. Read-only; files that it names are read again for each operation."""

    host_directories: tuple[str, ...] = ("/etc/containerd/certs.d", "/etc/docker/certs.d")
    """Where ``<host>/hosts.toml`` or Docker's certificate files lie; the first directory that has the host wins."""
    mirrors: tuple[str, ...] = ()
    """Docker's ``registry-mirrors``: URLs, for docker.io only."""
    insecure: tuple[str, ...] = ()
    """Docker's ``insecure-registries``: ``host``, ``host:port`` or networks. 127.0.0.0/8 and ::1 always are."""
    docker_config: str = ""
    """Path of a Docker ``config.json`` for requests without credentials of their own, or empty for none."""
    trusted_realms: Mapping[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]])
    """Registry host to further hosts which may be sent its credentials to make tokens."""
    proxies: Proxies = field(default_factory=Proxies)
    user_agent: str = "lading"
    limits: Limits = field(default_factory=Limits)
    helper_path: str = os.defpath
    """Where credential helpers named without a slash are looked for."""
