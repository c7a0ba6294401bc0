"""Platforms: what an image runs on, and which of several images fits best.

Normalising, matching and ordering follow containerd's ``platforms`` module: a host also runs the older variants of its
architecture (``arm64`` runs ``arm/v8`` to ``arm/v5``; ``amd64/v3`` runs ``v2`` and ``v1``), newest first.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeVar

from lading.errors import InvalidArgumentError
from lading.oci.descriptor import Platform

T = TypeVar("T")

UNKNOWN: Final = Platform(os="unknown", architecture="unknown")
"""The platform under which attestation manifests stand in an index."""

_PART: Final = re.compile(r"[A-Za-z0-9_.-]+")
_ARCHITECTURES: Final = {
    "i386": ("386", ""),
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "amd64": ("amd64", None),
    "aarch64": ("arm64", ""),
    "arm64": ("arm64", None),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "arm": ("arm", None),
}
_OPERATING_SYSTEMS: Final = {"macos": "darwin"}
_KNOWN_ARCHITECTURES: Final = frozenset(
    [
        "386",
        "amd64",
        "amd64p32",
        "arm",
        "armbe",
        "arm64",
        "arm64be",
        "ppc64",
        "ppc64le",
        "loong64",
        "mips",
        "mipsle",
        "mips64",
        "mips64le",
        "mips64p32",
        "mips64p32le",
        "ppc",
        "riscv",
        "riscv64",
        "s390",
        "s390x",
        "sparc",
        "sparc64",
        "wasm",
        "unknown",
    ]
)
_KNOWN_SYSTEMS: Final = frozenset(
    [
        "aix",
        "android",
        "darwin",
        "dragonfly",
        "freebsd",
        "hurd",
        "illumos",
        "ios",
        "js",
        "linux",
        "nacl",
        "netbsd",
        "openbsd",
        "plan9",
        "solaris",
        "windows",
        "zos",
        "wasi",
        "unknown",
    ]
)


def normalize(platform: Platform) -> Platform:
    """The canonical spelling: aliases resolved, ``arm64/v8`` and ``amd64/v1`` without their implied variant, ``arm`` with v7."""
    system = platform.os.lower()
    system = _OPERATING_SYSTEMS.get(system, system)
    architecture = platform.architecture.lower()
    variant = platform.variant.lower()
    known = _ARCHITECTURES.get(architecture)
    if known is not None:
        architecture, forced = known
        variant = variant if forced is None else forced
    if (architecture, variant) in (("arm64", "8"), ("arm64", "v8"), ("amd64", "v1")):
        variant = ""
    elif architecture == "arm":
        variant = {"": "v7", "5": "v5", "6": "v6", "7": "v7", "8": "v8"}.get(variant, variant)
    return Platform(
        os=system,
        architecture=architecture,
        variant=variant,
        os_version=platform.os_version,
        os_features=platform.os_features,
    )


def parse(text: str) -> Platform:
    """Read ``os``, ``arch``, ``os/arch`` or ``os/arch/variant``; a single word is looked up as either.

    Raises `InvalidArgumentError`.
    """
    parts = text.split("/")
    if not all(_PART.fullmatch(part) for part in parts) or len(parts) > 3:
        raise InvalidArgumentError(
            f"invalid platform {text!r}",
            hint="use os/arch or os/arch/variant, e.g. linux/arm64/v8",
            subject=text,
        )
    if len(parts) == 1:
        return _parse_word(parts[0])
    return normalize(
        Platform(os=parts[0], architecture=parts[1], variant=parts[2] if len(parts) == 3 else "")
    )


def _parse_word(word: str) -> Platform:
    alone = normalize(Platform(os=word, architecture=""))
    if alone.os in _KNOWN_SYSTEMS:
        return Platform(os=alone.os, architecture=_host_architecture())
    asked = normalize(Platform(os="linux", architecture=word))
    if asked.architecture in _KNOWN_ARCHITECTURES:
        return asked
    raise InvalidArgumentError(
        f"unknown operating system or architecture {word!r}",
        hint="use os/arch, e.g. linux/amd64",
        subject=word,
    )


def _host_architecture() -> str:
    import platform as stdlib  # noqa: PLC0415 - reads uname only when asked

    return normalize(Platform(os="linux", architecture=stdlib.machine())).architecture


def host() -> Platform:
    """The platform of this machine, e.g. ``linux/amd64``."""
    import platform as stdlib  # noqa: PLC0415 - reads uname only when asked

    variant = {"armv8l": "v8", "armv7l": "v7", "armv6l": "v6", "armv5tel": "v5"}.get(stdlib.machine(), "")
    machine = "arm" if variant else stdlib.machine()
    return normalize(Platform(os="linux", architecture=machine, variant=variant))


def formatted(platform: Platform) -> str:
    """``os/arch[/variant]`` as Docker shows it."""
    text = f"{platform.os or 'unknown'}/{platform.architecture or 'unknown'}"
    return f"{text}/{platform.variant}" if platform.variant else text


def candidates(wanted: Platform) -> list[Platform]:
    """What a machine of platform ``wanted`` can run, best first."""
    wanted = normalize(wanted)
    architecture, variant = wanted.architecture, wanted.variant
    pairs: list[tuple[str, str]] = [(architecture, variant)]
    if architecture == "amd64":
        level = int(variant[1:]) if re.fullmatch(r"v[2-9]", variant) else 1
        pairs += [("amd64", f"v{n}" if n > 1 else "") for n in range(level - 1, 0, -1)] + [("386", "")]
    elif architecture == "arm64":
        minor = re.fullmatch(r"v([89])(?:\.([0-9]))?", variant)
        if minor:
            pairs += [("arm64", v) for v in _older_arm64(int(minor[1]), int(minor[2] or 0))]
        pairs += [("arm", f"v{n}") for n in (8, 7, 6, 5)]
    elif architecture == "arm":
        level = int(variant[1:]) if re.fullmatch(r"v[5-8]", variant) else 0
        pairs += [("arm", f"v{n}") for n in range(level - 1, 4, -1)]
    return [Platform(os=wanted.os, architecture=a, variant=v, os_version=wanted.os_version) for a, v in pairs]


def _older_arm64(major: int, minor: int) -> list[str]:
    """Every Arm A-profile version before ``v<major>.<minor>``; v9.N contains v8.N+5."""
    nines = [f"v9.{n}" if n else "v9" for n in range(minor - 1, -1, -1)] if major == 9 else []
    newest_eight = minor + 5 if major == 9 else minor - 1
    eights = [f"v8.{n}" if n else "" for n in range(min(newest_eight, 9), -1, -1)]
    return nines + eights


def same(one: Platform, other: Platform) -> bool:
    """Strict equality of operating system, architecture and variant; an OS version counts if both name one."""
    a, b = normalize(one), normalize(other)
    versions = not a.os_version or not b.os_version or a.os_version == b.os_version
    return versions and (a.os, a.architecture, a.variant) == (b.os, b.architecture, b.variant)


def rank(wanted: Platform, offered: Platform) -> int | None:
    """How well ``offered`` runs on ``wanted``: 0 is best, ``None`` does not run."""
    for position, candidate in enumerate(candidates(wanted)):
        if same(candidate, offered):
            return position
    return None


def best(
    wanted: Platform, offers: Iterable[T], *, key: Callable[[T], Platform | None], strict: bool = False
) -> T | None:
    """The offer that fits ``wanted`` best; the first of equals (hostile-input.md D10); ``None`` if none does."""
    ranked = order(wanted, offers, key=key, strict=strict)
    return ranked[0] if ranked else None


def order(
    wanted: Platform, offers: Iterable[T], *, key: Callable[[T], Platform | None], strict: bool = False
) -> Sequence[T]:
    """All offers that run on ``wanted``, best first, stable. With ``strict`` only the very platform fits."""
    ranked: list[tuple[int, T]] = []
    for offer in offers:
        platform = key(offer)
        if platform is None:
            continue
        position = (0 if same(wanted, platform) else None) if strict else rank(wanted, platform)
        if position is not None:
            ranked.append((position, offer))
    ranked.sort(key=lambda pair: pair[0])
    return [offer for _, offer in ranked]
