"""What the client asked of the frontend: its attributes as values."""

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import msgspec

from lading.builder.model import ResolveMode
from lading.errors import InvalidArgumentError, UnsupportedError
from lading.formats.dockerfile import rules, values
from lading.formats.dockerfile.errors import DockerfileError
from lading.formats.llb.ops import HostIP, NetMode, Ulimit
from lading.oci import platform as platforms
from lading.oci import reference
from lading.oci.descriptor import Platform

CAPS: Final = frozenset(
    f"moby.buildkit.frontend.{name}" for name in ("inputs", "subrequests", "contexts", "gitquerystring")
)
"""What a client may demand of a frontend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sbom:
    """Which image lists the contents of a result, and what it is told."""

    generator: str
    parameters: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """One build's wishes. Absent texts are empty."""

    filename: str
    target: str
    platforms: Sequence[Platform]
    """Asked for; empty for the native one."""
    multi_platform: bool
    """Whether the result has one ref for each platform, even if that is one."""
    resolve_mode: ResolveMode
    build_args: Mapping[str, str]
    labels: Mapping[str, str]
    no_cache: frozenset[str] | None
    """Stages that are not taken from the cache, lower-case; empty for all, ``None`` for none."""
    extra_hosts: tuple[HostIP, ...]
    shm_size: int
    ulimits: tuple[Ulimit, ...]
    network: NetMode
    cgroup_parent: str
    hostname: str
    cache_namespace: str
    epoch: int | None
    """Seconds since the epoch."""
    checks: rules.Choice | None
    sbom: Sbom | None
    request: str
    """A subrequest instead of a build."""

    @property
    def created(self) -> str | None:
        """The epoch as RFC 3339 text."""
        if self.epoch is None:
            return None
        return datetime.fromtimestamp(self.epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def ignores_cache(self, stage: str) -> bool:
        """Whether a stage is built anew."""
        return self.no_cache is not None and (not self.no_cache or stage.lower() in self.no_cache)


def parse(attributes: Mapping[str, str]) -> Options:
    """Raises `InvalidArgumentError`; `UnsupportedError` for what the client demands and is not there."""
    _check_caps(attributes.get("frontend.caps", ""))
    args = _prefixed(attributes, "build-arg:")
    wanted = _platforms(attributes.get("platform", ""))
    return Options(
        filename=attributes.get("filename", "Dockerfile"),
        target=attributes.get("target", ""),
        platforms=wanted,
        multi_platform=_multi_platform(attributes, args, wanted),
        resolve_mode=ResolveMode.parse(attributes.get("image-resolve-mode", "")),
        build_args=args,
        labels=_prefixed(attributes, "label:"),
        no_cache=_no_cache(attributes),
        extra_hosts=_extra_hosts(attributes.get("add-hosts", "")),
        shm_size=_integer(attributes.get("shm-size", ""), "shm size") or 0,
        ulimits=_ulimits(attributes.get("ulimit", "")),
        network=_network(attributes.get("force-network-mode", "")),
        cgroup_parent=attributes.get("cgroup-parent", ""),
        hostname=args.get("BUILDKIT_SANDBOX_HOSTNAME") or attributes.get("hostname", ""),
        cache_namespace=args.get("BUILDKIT_CACHE_MOUNT_NS", ""),
        epoch=_integer(args.get("SOURCE_DATE_EPOCH", ""), "SOURCE_DATE_EPOCH"),
        checks=_checks(args.get("BUILDKIT_DOCKERFILE_CHECK")),
        sbom=_sbom(attributes, args),
        request=attributes.get("requestid", ""),
    )


def _check_caps(text: str) -> None:
    for cap in text.split(",") if text else ():
        name = cap.partition("+")[0]
        if name not in CAPS:
            raise UnsupportedError(f"unsupported frontend capability {name}", subject=name)


def _prefixed(attributes: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {key.removeprefix(prefix): value for key, value in attributes.items() if key.startswith(prefix)}


def _platforms(text: str) -> list[Platform]:
    found: list[Platform] = []
    for part in text.split(",") if text else ():
        try:
            found.append(platforms.parse(part))
        except InvalidArgumentError as exc:
            message = f"failed to parse target platform {part}: {exc.message}"
            raise InvalidArgumentError(message, hint=exc.hint, subject=part) from exc
    return found


def _multi_platform(
    attributes: Mapping[str, str], args: Mapping[str, str], wanted: Sequence[Platform]
) -> bool:
    text = args.get("BUILDKIT_MULTI_PLATFORM") or attributes.get("multi-platform", "")
    if not text:
        return len(wanted) > 1
    chosen = values.truth(text)
    if chosen is None:
        raise InvalidArgumentError(f"invalid boolean value for multi-platform: {text}")
    if not chosen and len(wanted) > 1:
        raise InvalidArgumentError("conflicting config: returning multiple target platforms is not allowed")
    return chosen


def _no_cache(attributes: Mapping[str, str]) -> frozenset[str] | None:
    text = attributes.get("no-cache")
    if text is None:
        return None
    return frozenset(name.lower() for name in text.split(",")) if text else frozenset()


def _fields(text: str, what: str) -> list[str]:
    try:
        return values.fields(text) if text else []
    except DockerfileError as exc:
        raise InvalidArgumentError(f"failed to parse {what}: {exc.message}") from exc


def _extra_hosts(text: str) -> tuple[HostIP, ...]:
    found: list[HostIP] = []
    for entry in _fields(text, "additional hosts"):
        host, equals, address = entry.lower().partition("=")
        if not equals:
            raise InvalidArgumentError(
                f"failed to parse additional hosts: invalid key-value pair {entry.lower()}"
            )
        try:
            found.append(HostIP(host=host, ip=str(ipaddress.ip_address(address))))
        except ValueError as exc:
            raise InvalidArgumentError(
                f"failed to parse additional hosts: failed to parse IP {address}"
            ) from exc
    return tuple(found)


def _integer(text: str, what: str) -> int | None:
    if not text:
        return None
    if not re.fullmatch("-?[0-9]{1,18}", text):
        raise InvalidArgumentError(f"invalid {what}: {text}")
    return int(text)


def _ulimits(text: str) -> tuple[Ulimit, ...]:
    found: list[Ulimit] = []
    for entry in _fields(text, "ulimit"):
        match = re.fullmatch(r"([a-z]+)=(-?[0-9]{1,18})(?::(-?[0-9]{1,18}))?", entry)
        if match is None:
            raise InvalidArgumentError(f"failed to parse ulimit: invalid ulimit argument: {entry}")
        soft = int(match[2])
        found.append(Ulimit(name=match[1], soft=soft, hard=int(match[3]) if match[3] else soft))
    return tuple(found)


def _network(text: str) -> NetMode:
    modes = {"": NetMode.UNSET, "sandbox": NetMode.UNSET, "none": NetMode.NONE, "host": NetMode.HOST}
    if text not in modes:
        raise InvalidArgumentError(f"invalid netmode {text}")
    return modes[text]


def _checks(text: str | None) -> rules.Choice | None:
    if text is None:
        return None
    try:
        return rules.parse_choice(text)
    except DockerfileError as exc:
        message = f"failed to parse build-arg:BUILDKIT_DOCKERFILE_CHECK: {exc.message}"
        raise InvalidArgumentError(message) from exc


def _sbom(attributes: Mapping[str, str], args: Mapping[str, str]) -> Sbom | None:
    text = attributes.get("attest:sbom", args.get("BUILDKIT_ATTEST_SBOM"))
    if text is None:
        return None
    fields = dict(pair(field) for field in _fields(text, "sbom"))
    if "generator" not in fields:
        return None  # the builder's own scanner does it, which needs no image
    generator = fields.pop("generator")
    if not generator:
        raise InvalidArgumentError("sbom scanner cannot be empty")
    try:
        named = reference.parse(generator).with_default_tag()
    except InvalidArgumentError as exc:
        raise InvalidArgumentError(f"failed to parse sbom scanner {generator}: {exc.message}") from exc
    return Sbom(generator=str(named), parameters=fields)


def pair(text: str) -> tuple[str, str]:
    """What stands before and after the first ``=``."""
    key, _, value = text.partition("=")
    return key, value


def parse_metadata(text: str, what: str) -> dict[str, bytes]:
    """The metadata that a client sends with an input: JSON, values in base64. Raises `InvalidArgumentError`."""
    try:
        return msgspec.json.decode(text, type=dict[str, bytes])
    except msgspec.DecodeError as exc:
        raise InvalidArgumentError(f"failed to parse {what}: {exc}") from exc
