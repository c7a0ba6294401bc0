"""Volumes of a container: what was asked for, what it got, and how it is mounted.

Asked for in four places, of which a later one wins: ``--volumes-from``, ``-v``, ``--mount``, and ``VOLUME`` of the image or of
the create body, which only counts where nothing else is mounted.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from lading.containers import binds
from lading.containers.binds import Bind
from lading.containers.request import Config, HostConfig, MountRequest
from lading.errors import InvalidArgumentError, UnsupportedError

TYPE: Final = "volume"
ANONYMOUS: Final = "com.docker.volume.anonymous"
"""Label of volumes that were made for a container that named none."""


class VolumeMount(msgspec.Struct, frozen=True, kw_only=True):
    """A volume in a container; kept with it. ``name`` is empty while it is only asked for, and means a new one.

    ``copy``: an empty volume gets what the image has at the target. ``own``: it was made for this container alone.
    """

    target: str
    name: str = ""
    read_only: bool = False
    copy: bool = True
    subpath: str = ""
    propagation: str = ""
    mode: str = ""
    own: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A wished-for volume, with what a new one is made of."""

    mount: VolumeMount
    driver: str = ""
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    options: Mapping[str, str] = field(default_factory=dict[str, str])


def parse_bind(text: str) -> Asked:
    """``name:/path[:modes]``, or ``/path`` alone. Raises `InvalidArgumentError`."""
    parts = text.split(":")
    if len(parts) == 1:
        parts = ["", *parts]
    elif not parts[0]:
        raise InvalidArgumentError(f"invalid volume specification: '{text}'", subject=text)
    if len(parts) not in (2, 3) or not all(parts[1:]):
        raise InvalidArgumentError(f"invalid volume specification: '{text}'", subject=text)
    modes = parts[2].split(",") if len(parts) == 3 else []
    for mode in modes:
        if mode not in ("ro", "rw", "nocopy", "z", "Z"):
            raise InvalidArgumentError(f"invalid mode: {mode}", subject=text)
    mount = VolumeMount(
        name=parts[0],
        target=binds.clean_target(parts[1], text),
        read_only="ro" in modes,
        copy="nocopy" not in modes,
        mode=parts[2] if len(parts) == 3 else "",
    )
    return Asked(mount=mount)


def parse_mount(request: MountRequest) -> Asked:
    """``--mount type=volume``. Raises `InvalidArgumentError`."""
    options = request.volume_options
    subpath = (options and options.subpath) or ""
    if subpath.startswith("/") or ".." in subpath.split("/"):
        raise InvalidArgumentError(
            f'invalid mount config for type "volume": subpath must be a relative path within the volume: {subpath}'
        )
    if subpath and not request.source:
        raise InvalidArgumentError(
            'invalid mount config for type "volume": must not set Subpath when using anonymous volumes'
        )
    mount = VolumeMount(
        name=request.source,
        target=binds.clean_target(request.target, request.target),
        read_only=request.read_only,
        copy=not (options and options.no_copy) and not subpath,
        subpath=subpath,
    )
    driver = options and options.driver_config
    return Asked(
        mount=mount,
        driver=(driver and driver.name) or "",
        options=(driver and driver.options) or {},
        labels=(options and options.labels) or {},
    )


MountsOf = Callable[[str], tuple[Sequence[VolumeMount], Sequence[Bind]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All volumes of a new container: to be found or made, and mounts that other containers have."""

    asked: Sequence[Asked]
    borrowed: Sequence[VolumeMount]
    binds: Sequence[Bind]


def plan(config: Config, host: HostConfig, image: Mapping[str, Any] | None, mounts_of: MountsOf) -> Plan:
    """The volumes that a create body asks for.

    Args:
        config: Its configuration.
        host: Its host configuration.
        image: ``VOLUME`` of its image.
        mounts_of: Volumes and bind mounts of a container by its name or ID.

    Raises:
        InvalidArgumentError: One is malformed, or shares its target with another mount.
        UnsupportedError: The driver is not offered.
        NotFoundError: ``--volumes-from`` names no container.

    """
    if host.volume_driver not in ("", "local"):
        raise UnsupportedError(
            f"HostConfig.VolumeDriver {host.volume_driver!r} is not supported", hint="use local"
        )
    asked = [parse_bind(text) for text in host.binds or () if binds.is_volume(text)]
    asked += [parse_mount(request) for request in host.mounts or () if request.type == TYPE]
    taken = {each.target for kind in binds.parse(host) for each in kind}
    taken |= {binds.clean_target(each.target, "") for each in host.mounts or () if each.type == "image"}
    for each in asked:
        if each.mount.target in taken:
            raise InvalidArgumentError(
                f"Duplicate mount point: {each.mount.target}", subject=each.mount.target
            )
        taken.add(each.mount.target)
    volumes, paths = _borrowed(host, taken, mounts_of)
    taken |= {each.target for each in (*volumes, *paths)}
    for path in sorted({**(image or {}), **(config.volumes or {})}):
        implied = _plain(path)
        if implied.mount.target not in taken:
            asked.append(implied)
            taken.add(implied.mount.target)
    return Plan(asked=asked, borrowed=volumes, binds=paths)


def _plain(path: str) -> Asked:
    if not path.startswith("/"):
        raise InvalidArgumentError(f"invalid volume specification: '{path}'", subject=path)
    return Asked(mount=VolumeMount(target=binds.clean_target(path, path)))


# From other containers.


def split_from(text: str) -> tuple[str, bool | None]:
    """``container[:ro|:rw]``: its name, and whether read-only was asked for. Raises `InvalidArgumentError`."""
    name, _, mode = text.partition(":")
    if not name:
        raise InvalidArgumentError(f"invalid volumes-from specification: {text!r}")
    read_only: bool | None = None
    for word in mode.split(",") if mode else ():
        if word in ("ro", "rw"):
            read_only = word == "ro"
        elif word not in ("z", "Z"):
            raise InvalidArgumentError(f"invalid mode for volumes-from: {word}")
    return name, read_only


def _borrowed(
    host: HostConfig,
    taken: set[str],
    mounts_of: MountsOf,
) -> tuple[list[VolumeMount], list[Bind]]:
    """Mounts of the containers that ``--volumes-from`` names, where ``taken`` has none. Raises as ``mounts_of``."""
    volumes: dict[str, VolumeMount] = {}
    paths: dict[str, Bind] = {}
    for text in host.volumes_from or ():
        name, read_only = split_from(text)
        theirs, bound = mounts_of(name)
        for mount in theirs:
            if mount.target not in taken:
                shown = mount.read_only if read_only is None else read_only
                made = msgspec.structs.replace(mount, read_only=shown, own=False, copy=False)
                volumes[mount.target] = made
                paths.pop(mount.target, None)
        for bind in bound:
            if bind.target not in taken:
                paths[bind.target] = bind if read_only is None else bind.with_mode(read_only=read_only)
                volumes.pop(bind.target, None)
    return list(volumes.values()), list(paths.values())


def inside(path: str, subpath: str) -> int:
    """A descriptor of a volume's path, for a mount: links never lead out of the volume. Blocking.

    Raises `InvalidArgumentError` if there is no such path.
    """
    from lading.containers.rootfs import Root  # noqa: PLC0415 - values above need no system calls

    try:
        with Root.at(path) as root:
            return root.open(subpath or ".", os.O_PATH)
    except OSError as exc:
        raise InvalidArgumentError(
            f"cannot access path {subpath!r} in the volume: {exc.strerror}", subject=subpath
        ) from exc
