"""Bind mounts and tmpfs: ``-v``, ``--mount`` and ``--tmpfs`` as OCI runtime-spec mounts."""

import os
import stat
from dataclasses import dataclass, replace
from typing import Any, Final

from lading.containers.request import HostConfig, MountRequest
from lading.errors import InvalidArgumentError, UnsupportedError
from lading.kit import fs

_PROPAGATION: Final = frozenset({"private", "rprivate", "shared", "rshared", "slave", "rslave"})
_IGNORED: Final = frozenset({"z", "Z", "nocopy", "consistent", "cached", "delegated"})
"""Modes that change nothing here: SELinux relabelling without SELinux, and hints of other platforms."""
_TMPFS_OPTIONS: Final = frozenset(
    {"rw", "ro", "exec", "noexec", "suid", "nosuid", "dev", "nodev", "noatime", "relatime", "strictatime"}
)
_TMPFS_KEYS: Final = frozenset({"size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol", "huge"})
_RESERVED: Final = frozenset({"/"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Bind:
    """A host path in a container. ``create`` makes a missing source a directory, as ``-v`` does."""

    source: str
    target: str
    read_only: bool = False
    propagation: str = "rprivate"
    recursive: bool = True
    create: bool = False
    shallow: bool = False
    """Read-only on top alone: what is mounted below keeps its own mode."""

    @property
    def mode(self) -> str:
        """As in ``Mounts[].Mode`` of inspect."""
        return "ro" if self.read_only else ""

    def with_mode(self, *, read_only: bool) -> "Bind":
        """The same in the other mode."""
        return replace(self, read_only=read_only)

    def spec(self) -> dict[str, Any]:
        """The runtime-spec mount."""
        mode = ("ro" if self.shallow or not self.recursive else "rro") if self.read_only else "rw"
        options = ["rbind" if self.recursive else "bind", mode, self.propagation]
        return {"destination": self.target, "type": "bind", "source": self.source, "options": options}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tmpfs:
    """A fresh tmpfs in a container."""

    target: str
    options: tuple[str, ...] = ()

    def spec(self) -> dict[str, Any]:
        """The runtime-spec mount; Docker's defaults come first, so that what was asked for wins."""
        options = ["noexec", "nosuid", "nodev", "rprivate", *self.options]
        return {"destination": self.target, "type": "tmpfs", "source": "tmpfs", "options": options}


def parse(host: HostConfig) -> tuple[list[Bind], list[Tmpfs]]:
    """Read all mount requests of a container.

    Raises:
        InvalidArgumentError: One is malformed, or two have the same target.
        UnsupportedError: One is no bind mount and no tmpfs.

    """
    binds = [_parse_bind(text) for text in host.binds or () if not is_volume(text)]
    tmpfs = [_parse_tmpfs(target, options) for target, options in (host.tmpfs or {}).items()]
    for request in host.mounts or ():
        if request.type in ("image", "volume"):
            continue  # see `imagemounts` and `volumemounts`
        made = _parse_mount(request)
        if isinstance(made, Bind):
            binds.append(made)
        else:
            tmpfs.append(made)
    seen: set[str] = set()
    for mount in (*binds, *tmpfs):
        if mount.target in seen:
            raise InvalidArgumentError(f"Duplicate mount point: {mount.target}", subject=mount.target)
        seen.add(mount.target)
    return binds, tmpfs


def is_volume(text: str) -> bool:
    """Whether a ``-v`` names a volume (or makes a new one) rather than a path of the machine."""
    return not text.startswith("/") or ":" not in text


def clean_target(path: str, shown: str) -> str:
    """An absolute path in a container without dots and double slashes; not the root. Raises `InvalidArgumentError`."""
    if not path.startswith("/") or "\0" in path:
        raise InvalidArgumentError(f"invalid mount path: '{path}' mount path must be absolute", subject=shown)
    clean = os.path.normpath(path)
    clean = "/" + clean.lstrip("/")
    if clean in _RESERVED:
        raise InvalidArgumentError("invalid specification: destination can't be '/'", subject=shown)
    return clean


def _parse_bind(text: str) -> Bind:
    parts = text.split(":")
    if len(parts) not in (2, 3) or not all(parts):
        raise InvalidArgumentError(f"invalid volume specification: '{text}'", subject=text)
    source, target, modes = parts[0], parts[1], parts[2].split(",") if len(parts) == 3 else []
    read_only, propagation, recursive = False, "rprivate", True
    for mode in modes:
        if mode in ("ro", "rw"):
            read_only = mode == "ro"
        elif mode in _PROPAGATION:
            propagation = mode
        elif mode == "bind-nonrecursive":
            recursive = False
        elif mode not in _IGNORED:
            raise InvalidArgumentError(f"invalid mode: {mode}", subject=text)
    return Bind(
        source=os.path.normpath(source),
        target=clean_target(target, text),
        read_only=read_only,
        propagation=propagation,
        recursive=recursive,
        create=True,
    )


def _parse_tmpfs(target: str, options: str) -> Tmpfs:
    parts = [part for part in options.split(",") if part]
    for part in parts:
        key, equals, _ = part.partition("=")
        if part not in _TMPFS_OPTIONS and not (equals and key in _TMPFS_KEYS) and part not in _PROPAGATION:
            raise InvalidArgumentError(f"invalid tmpfs option {part!r}", subject=target)
    return Tmpfs(target=clean_target(target, target), options=tuple(parts))


def _parse_mount(request: MountRequest) -> Bind | Tmpfs:
    target = clean_target(request.target, request.target)
    if request.type == "bind":
        options = request.bind_options
        if not request.source.startswith("/"):
            raise InvalidArgumentError(
                f"invalid mount config for type \"bind\": invalid mount path: '{request.source}' "
                "mount path must be absolute"
            )
        if options and options.propagation and options.propagation not in _PROPAGATION:
            raise InvalidArgumentError(f"invalid propagation mode: {options.propagation}")
        _check_bind_options(request)
        return Bind(
            source=os.path.normpath(request.source),
            target=target,
            read_only=request.read_only,
            propagation=(options and options.propagation) or "rprivate",
            recursive=not (options and options.non_recursive),
            create=bool(options and options.create_mountpoint),
            shallow=bool(options and options.read_only_non_recursive),
        )
    if request.type == "tmpfs":
        if request.source:
            raise InvalidArgumentError(
                'invalid mount config for type "tmpfs": field Source must not be specified'
            )
        wanted = request.tmpfs_options
        parts = ["ro"] if request.read_only else []
        if wanted and wanted.size_bytes:
            parts.append(f"size={wanted.size_bytes}")
        if wanted and wanted.mode:
            parts.append(f"mode={wanted.mode:o}")
        parts += ["=".join(pair) for pair in (wanted and wanted.options) or ()]
        return _parse_tmpfs(target, ",".join(parts))
    raise UnsupportedError(
        f"HostConfig.Mounts: mount type {request.type!r} is not supported",
        hint="use type=bind, volume, tmpfs or image",
    )


def _check_bind_options(request: MountRequest) -> None:
    options = request.bind_options
    if options is None:
        return
    if options.read_only_non_recursive and not request.read_only:
        raise InvalidArgumentError("BindOptions.ReadOnlyNonRecursive needs ReadOnly")
    if options.read_only_force_recursive:
        if not request.read_only or options.read_only_non_recursive or options.non_recursive:
            raise InvalidArgumentError(
                "BindOptions.ReadOnlyForceRecursive needs ReadOnly and excludes both kinds of NonRecursive"
            )
        if options.propagation and options.propagation != "rprivate":
            raise InvalidArgumentError("BindOptions.ReadOnlyForceRecursive needs propagation rprivate")


def prepare(bind: Bind, owner: tuple[int, int] = (0, 0)) -> None:
    """Make sure that the source is there, new ones are ``owner``'s; blocking. Raises `InvalidArgumentError`."""
    try:
        os.stat(bind.source)
    except FileNotFoundError:
        if not bind.create:
            raise InvalidArgumentError(
                f'invalid mount config for type "bind": bind source path does not exist: {bind.source}',
                subject=bind.source,
            ) from None
        try:
            fs.make_open_directories(bind.source, mode=0o755, owner=owner)
        except OSError as exc:
            raise InvalidArgumentError(
                f"error while creating mount source path '{bind.source}': {exc.strerror}", subject=bind.source
            ) from exc
    except OSError as exc:
        raise InvalidArgumentError(
            f"bind source path {bind.source}: {exc.strerror}", subject=bind.source
        ) from exc


def device(path: str, *, shown: str = "") -> dict[str, Any]:
    """Type, numbers and mode of a device file of the host, as a runtime-spec device; blocking. ``shown`` is for errors.

    Raises `InvalidArgumentError` if it is none.
    """
    try:
        found = os.stat(path)
    except OSError as exc:
        raise InvalidArgumentError(
            f'error gathering device information while adding custom device "{shown or path}": {exc.strerror}'
        ) from exc
    if stat.S_ISCHR(found.st_mode):
        kind = "c"
    elif stat.S_ISBLK(found.st_mode):
        kind = "b"
    else:
        raise InvalidArgumentError(
            f'error gathering device information while adding custom device "{shown or path}": not a device node'
        )
    return {
        "path": path,
        "type": kind,
        "major": os.major(found.st_rdev),
        "minor": os.minor(found.st_rdev),
        "fileMode": stat.S_IMODE(found.st_mode),
        "uid": found.st_uid,
        "gid": found.st_gid,
    }
