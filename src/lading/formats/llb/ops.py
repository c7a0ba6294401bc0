"""Operations as values. What the fields mean is BuildKit's (``solver/pb/ops.proto``); ``None`` stands for its -1.

An input number is a place in the vertex's list of inputs. Within a `FileOp`, numbers from the length of that list on name the
results of earlier actions.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from lading.formats.llb.definition import Definition
from lading.oci.digest import Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """Output ``index`` of the vertex ``digest``."""

    digest: Digest
    index: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOp:
    """A tree from outside: ``docker-image://``, ``local://``, ``git://``, ``https://``, ``oci-layout://``."""

    identifier: str
    attrs: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def scheme(self) -> str:
        """What stands before ``://``."""
        return self.identifier.partition("://")[0]


# Processes.


class NetMode(Enum):
    """Network of a process; ``UNSET`` is one of its own."""

    UNSET = 0
    HOST = 1
    NONE = 2


class SecurityMode(Enum):
    """``INSECURE`` is a privileged container."""

    SANDBOX = 0
    INSECURE = 1


class MountType(Enum):
    """Kinds of mounts of a process."""

    BIND = 0
    SECRET = 1
    SSH = 2
    CACHE = 3
    TMPFS = 4


class CacheSharing(Enum):
    """What happens when two processes want the same cache directory."""

    SHARED = 0
    """Both use it at once."""
    PRIVATE = 1
    """The second gets one of its own."""
    LOCKED = 2
    """The second waits."""


class ContentCache(Enum):
    """Whether an input is recognised by its content, as well as by how it was made."""

    DEFAULT = 0
    ON = 1
    OFF = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheOptions:
    """A directory that outlives the build."""

    id: str
    sharing: CacheSharing = CacheSharing.SHARED


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretOptions:
    """A secret as a file, or an agent as a socket; ``mode`` holds permission bits."""

    id: str
    uid: int = 0
    gid: int = 0
    mode: int = 0
    optional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A mount of a process. The one at ``/`` is its root. ``output`` counts for bind mounts only."""

    dest: str
    input: int | None = None
    selector: str = ""
    """Path within the input."""
    output: int | None = None
    readonly: bool = False
    type: MountType = MountType.BIND
    tmpfs_size: int | None = None
    """Bytes, 0 for no bound; ``None`` for what is no tmpfs."""
    cache: CacheOptions | None = None
    secret: SecretOptions | None = None
    ssh: SecretOptions | None = None
    content_cache: ContentCache = ContentCache.DEFAULT


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyEnv:
    """Proxy variables: given to the process, kept out of cache keys."""

    http_proxy: str = ""
    https_proxy: str = ""
    ftp_proxy: str = ""
    no_proxy: str = ""
    all_proxy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostIP:
    """A line of ``/etc/hosts``."""

    host: str
    ip: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ulimit:
    """A resource limit, named as in ``ulimit``; -1 is none."""

    name: str
    soft: int
    hard: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretEnv:
    """A secret as an environment variable."""

    id: str
    name: str
    optional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A CDI device."""

    name: str
    optional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Meta:
    """What runs, and as whom."""

    args: tuple[str, ...]
    env: tuple[str, ...] = ()
    cwd: str = ""
    user: str = ""
    proxy_env: ProxyEnv | None = None
    extra_hosts: tuple[HostIP, ...] = ()
    hostname: str = ""
    ulimits: tuple[Ulimit, ...] = ()
    cgroup_parent: str = ""
    remove_mount_stubs_recursive: bool = False
    """Whether directories that only existed as mount points go, with the parents that were made for them."""
    valid_exit_codes: tuple[int, ...] = ()
    """Exit codes that are no failure; empty for 0 alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecOp:
    """A process; its outputs are what it left in its writable bind mounts."""

    meta: Meta
    mounts: tuple[Mount, ...]
    network: NetMode = NetMode.UNSET
    security: SecurityMode = SecurityMode.SANDBOX
    secret_env: tuple[SecretEnv, ...] = ()
    devices: tuple[Device, ...] = ()


# Files.


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedUser:
    """A user or group by name, looked up in ``/etc/passwd`` or ``/etc/group`` of an input; ``None`` means no such file."""

    name: str
    input: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Owner of new files; ``None`` leaves what it would be."""

    user: NamedUser | int | None = None
    group: NamedUser | int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """Copy from the action's secondary input to its input. ``mode`` are permission bits, or symbolic as text; ``timestamp`` in
    nanoseconds since the epoch, for every file.
    """

    src: str
    dest: str
    owner: Owner | None = None
    mode: int | str | None = None
    follow_symlink: bool = False
    dir_copy_contents: bool = False
    """Of a directory, copy what is in it rather than itself."""
    attempt_unpack: bool = False
    """Extract it if it is an archive."""
    create_dest_path: bool = False
    allow_wildcard: bool = False
    allow_empty_wildcard: bool = False
    timestamp: int | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    always_replace: bool = False
    """Replace what is at the destination also if it is of another type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeFile:
    """Make or replace a regular file."""

    path: str
    mode: int
    data: bytes = b""
    owner: Owner | None = None
    timestamp: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeDirectory:
    """Make a directory."""

    path: str
    mode: int
    make_parents: bool = False
    owner: Owner | None = None
    timestamp: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeSymlink:
    """Make a symbolic link ``path`` to ``target``."""

    target: str
    path: str
    owner: Owner | None = None
    timestamp: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Remove:
    """Remove a file, or a directory with all that is in it."""

    path: str
    allow_not_found: bool = False
    allow_wildcard: bool = False


Action = Copy | MakeFile | MakeDirectory | MakeSymlink | Remove


@dataclass(frozen=True, slots=True, kw_only=True)
class FileAction:
    """One action. It works on ``input``; a copy reads from ``secondary``; ``output`` makes its tree an output of the vertex."""

    action: Action
    input: int | None = None
    secondary: int | None = None
    output: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileOp:
    """Changes of files without a process."""

    actions: tuple[FileAction, ...]


# Layers, and graphs made by an operation.


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeOp:
    """Trees laid over each other, first at the bottom."""

    inputs: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffOp:
    """What ``upper`` has over ``lower``; ``None`` is an empty tree."""

    lower: int | None
    upper: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOp:
    """The result of another graph: ``definition``, or that which the input ``""`` holds in the file ``llbbuild.filename``."""

    builder: int | None = None
    inputs: Mapping[str, int] = field(default_factory=dict[str, int])
    definition: Definition | None = None
    attrs: Mapping[str, str] = field(default_factory=dict[str, str])


Op = SourceOp | ExecOp | FileOp | MergeOp | DiffOp | BuildOp
