"""Bytes to operations. The bytes are a client's: what they name is checked, and what is unknown is refused."""

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import TypeVar

from google.protobuf.message import DecodeError

from lading.errors import InvalidArgumentError, UnsupportedError
from lading.formats.llb import ops
from lading.formats.llb._pb import ops_pb2 as pb
from lading.formats.llb.definition import Definition
from lading.oci.descriptor import Platform
from lading.oci.digest import Digest

E = TypeVar("E", bound=Enum)


class DecodedOp:
    """What a ``pb.Op`` holds. ``op`` is ``None`` for the terminal of a definition."""

    __slots__ = ("filters", "inputs", "op", "platform")

    def __init__(self, data: bytes) -> None:
        """Raises `InvalidArgumentError` or, for a kind of operation that is not known here, `UnsupportedError`."""
        message = parse_op(data)
        self.inputs = tuple(_input(one) for one in message.inputs)
        self.op = _op(message, len(self.inputs))
        self.platform = platform_from(message.platform) if message.HasField("platform") else None
        self.filters = tuple(message.constraints.filter)


def parse_op(data: bytes) -> pb.Op:
    """The message. Raises `InvalidArgumentError`."""
    message = pb.Op()
    try:
        message.ParseFromString(data)
    except DecodeError as exc:
        raise InvalidArgumentError(f"LLB operation is malformed: {exc}") from exc
    return message


def decode_definition(data: bytes) -> Definition:
    """Read a ``pb.Definition``. Raises `InvalidArgumentError`."""
    message = pb.Definition()
    try:
        message.ParseFromString(data)
    except DecodeError as exc:
        raise InvalidArgumentError(f"LLB definition is malformed: {exc}") from exc
    return definition_from(message)


def definition_from(message: pb.Definition) -> Definition:
    """The definition that a message holds. Raises `InvalidArgumentError`."""
    metadata = {Digest(digest): value for digest, value in message.metadata.items()}
    return Definition(ops=tuple(message.ops), metadata=metadata, source=message.source)


def _op(message: pb.Op, inputs: int) -> ops.Op | None:
    match message.WhichOneof("op"):
        case "exec":
            return _exec(message.exec, inputs)
        case "source":
            return _source(message.source)
        case "file":
            return _file(message.file, inputs)
        case "merge":
            return ops.MergeOp(inputs=tuple(_place(one.input, inputs) for one in message.merge.inputs))
        case "diff":
            lower = _place_or_none(message.diff.lower.input, inputs)
            return ops.DiffOp(lower=lower, upper=_place_or_none(message.diff.upper.input, inputs))
        case "build":
            return _build(message.build, inputs)
        case _:
            return None


def _place(number: int, inputs: int) -> int:
    if not 0 <= number < inputs:
        raise InvalidArgumentError(f"LLB operation uses input {number} of {inputs}")
    return number


def _place_or_none(number: int, inputs: int) -> int | None:
    return None if number == -1 else _place(number, inputs)


def _enum(kind: type[E], number: int) -> E:
    try:
        return kind(number)
    except ValueError as exc:
        raise UnsupportedError(f"LLB {kind.__name__} {number} is unknown") from exc


def _input(message: pb.Input) -> ops.Input:
    if message.index < 0:
        raise InvalidArgumentError(f"LLB input names output {message.index}")
    return ops.Input(digest=Digest(message.digest), index=message.index)


def platform_from(message: pb.Platform) -> Platform:
    """The platform that a message holds."""
    return Platform(
        os=message.OS,
        architecture=message.Architecture,
        variant=message.Variant,
        os_version=message.OSVersion,
        os_features=tuple(message.OSFeatures),
    )


def _source(message: pb.SourceOp) -> ops.SourceOp:
    if "://" not in message.identifier:
        raise InvalidArgumentError(f"LLB source {message.identifier!r} has no scheme")
    return ops.SourceOp(identifier=message.identifier, attrs=dict(message.attrs))


# Processes.


def _exec(message: pb.ExecOp, inputs: int) -> ops.ExecOp:
    if not message.meta.args:
        raise InvalidArgumentError("invalid exec op with no args")
    mounts = tuple(
        mount_from(
            one,
            input=_place_or_none(one.input, inputs),
            output=None if one.output == -1 else _output(one.output),
        )
        for one in message.mounts
    )
    if not any(mount.dest == "/" for mount in mounts):
        raise InvalidArgumentError("invalid exec op with no rootfs")
    return ops.ExecOp(
        meta=meta_from(message.meta),
        mounts=mounts,
        network=network_from(message.network),
        security=security_from(message.security),
        secret_env=secrets_from(message.secretenv),
        devices=tuple(ops.Device(name=one.name, optional=one.optional) for one in message.cdiDevices),
    )


def network_from(number: int) -> ops.NetMode:
    """Raises `UnsupportedError`."""
    return _enum(ops.NetMode, number)


def security_from(number: int) -> ops.SecurityMode:
    """Raises `UnsupportedError`."""
    return _enum(ops.SecurityMode, number)


def secrets_from(messages: Iterable[pb.SecretEnv]) -> tuple[ops.SecretEnv, ...]:
    """Secrets for an environment."""
    return tuple(ops.SecretEnv(id=one.ID, name=one.name, optional=one.optional) for one in messages)


def hosts_from(messages: Iterable[pb.HostIP]) -> tuple[ops.HostIP, ...]:
    """Lines of ``/etc/hosts``."""
    return tuple(ops.HostIP(host=one.Host, ip=one.IP) for one in messages)


def meta_from(message: pb.Meta) -> ops.Meta:
    """What runs, and as whom."""
    proxy = message.proxy_env
    return ops.Meta(
        args=tuple(message.args),
        env=tuple(message.env),
        cwd=message.cwd,
        user=message.user,
        proxy_env=ops.ProxyEnv(
            http_proxy=proxy.http_proxy,
            https_proxy=proxy.https_proxy,
            ftp_proxy=proxy.ftp_proxy,
            no_proxy=proxy.no_proxy,
            all_proxy=proxy.all_proxy,
        )
        if message.HasField("proxy_env")
        else None,
        extra_hosts=hosts_from(message.extraHosts),
        hostname=message.hostname,
        ulimits=tuple(ops.Ulimit(name=one.Name, soft=one.Soft, hard=one.Hard) for one in message.ulimit),
        cgroup_parent=message.cgroupParent,
        remove_mount_stubs_recursive=message.removeMountStubsRecursive,
        valid_exit_codes=tuple(message.validExitCodes),
    )


def mount_from(message: pb.Mount, *, input: int | None, output: int | None) -> ops.Mount:
    """The mount that a message holds, with this input and output. Raises `UnsupportedError`."""
    has = message.HasField
    return ops.Mount(
        dest=message.dest,
        input=input,
        selector=message.selector,
        output=output,
        readonly=message.readonly,
        type=_enum(ops.MountType, message.mountType),
        tmpfs_size=message.TmpfsOpt.size if has("TmpfsOpt") else None,
        cache=_cache(message.cacheOpt) if has("cacheOpt") else None,
        secret=_secret(message.secretOpt) if has("secretOpt") else None,
        ssh=_secret(message.SSHOpt) if has("SSHOpt") else None,
        content_cache=_enum(ops.ContentCache, message.contentCache),
    )


def _output(number: int) -> int:
    if number < 0:
        raise InvalidArgumentError(f"LLB operation has an output {number}")
    return number


def _cache(message: pb.CacheOpt) -> ops.CacheOptions:
    return ops.CacheOptions(id=message.ID, sharing=_enum(ops.CacheSharing, message.sharing))


def _secret(message: pb.SecretOpt | pb.SSHOpt) -> ops.SecretOptions:
    return ops.SecretOptions(
        id=message.ID, uid=message.uid, gid=message.gid, mode=message.mode, optional=message.optional
    )


# Files.


def _file(message: pb.FileOp, inputs: int) -> ops.FileOp:
    if not message.actions:
        raise InvalidArgumentError("invalid file op with no actions")
    return ops.FileOp(
        actions=tuple(
            _file_action(one, inputs, inputs + before) for before, one in enumerate(message.actions)
        )
    )


def _file_action(message: pb.FileAction, inputs: int, reachable: int) -> ops.FileAction:
    """``reachable`` counts the inputs and the actions before this one: an action never reads a later one."""
    return ops.FileAction(
        action=_action(message, inputs),
        input=_place_or_none(message.input, reachable),
        secondary=_place_or_none(message.secondaryInput, reachable),
        output=None if message.output == -1 else _output(message.output),
    )


def _action(message: pb.FileAction, inputs: int) -> ops.Action:
    match message.WhichOneof("action"):
        case "copy":
            return _copy(message.copy, inputs)
        case "mkfile":
            make = message.mkfile
            return ops.MakeFile(
                path=make.path,
                mode=make.mode,
                data=make.data,
                owner=_owner(make, inputs),
                timestamp=_time(make.timestamp),
            )
        case "mkdir":
            made = message.mkdir
            return ops.MakeDirectory(
                path=made.path,
                mode=made.mode,
                make_parents=made.makeParents,
                owner=_owner(made, inputs),
                timestamp=_time(made.timestamp),
            )
        case "symlink":
            link = message.symlink
            return ops.MakeSymlink(
                target=link.oldpath,
                path=link.newpath,
                owner=_owner(link, inputs),
                timestamp=_time(link.timestamp),
            )
        case "rm":
            gone = message.rm
            return ops.Remove(
                path=gone.path, allow_not_found=gone.allowNotFound, allow_wildcard=gone.allowWildcard
            )
        case _:
            raise UnsupportedError("LLB file action is of an unknown kind")


def _copy(message: pb.FileActionCopy, inputs: int) -> ops.Copy:
    return ops.Copy(
        src=message.src,
        dest=message.dest,
        owner=_owner(message, inputs),
        mode=message.modeStr or (None if message.mode == -1 else message.mode),
        follow_symlink=message.followSymlink,
        dir_copy_contents=message.dirCopyContents,
        attempt_unpack=message.attemptUnpackDockerCompatibility,
        create_dest_path=message.createDestPath,
        allow_wildcard=message.allowWildcard,
        allow_empty_wildcard=message.allowEmptyWildcard,
        timestamp=_time(message.timestamp),
        include=tuple(message.include_patterns),
        exclude=tuple(message.exclude_patterns),
        always_replace=message.alwaysReplaceExistingDestPaths,
    )


def _time(number: int) -> int | None:
    return None if number == -1 else number


def _owner(
    message: pb.FileActionCopy | pb.FileActionMkFile | pb.FileActionMkDir | pb.FileActionSymlink, inputs: int
) -> ops.Owner | None:
    if not message.HasField("owner"):
        return None
    owner = message.owner
    return ops.Owner(
        user=_user(owner.user, inputs) if owner.HasField("user") else None,
        group=_user(owner.group, inputs) if owner.HasField("group") else None,
    )


def _user(message: pb.UserOpt, inputs: int) -> ops.NamedUser | int:
    if message.WhichOneof("user") == "byName":
        return ops.NamedUser(name=message.byName.name, input=_place_or_none(message.byName.input, inputs))
    return message.byID


def _build(message: pb.BuildOp, inputs: int) -> ops.BuildOp:
    return ops.BuildOp(
        builder=None if message.builder == -1 else message.builder,
        inputs={name: _place(one.input, inputs) for name, one in message.inputs.items()},
        definition=definition_from(message.definition) if message.HasField("definition") else None,
        attrs=dict(message.attrs),
    )


def outputs(op: ops.Op) -> Sequence[int]:
    """The numbers of an operation's outputs, in order of its mounts or actions."""
    if isinstance(op, ops.ExecOp):
        mounts = op.mounts
        return [one.output for one in mounts if one.type is ops.MountType.BIND and one.output is not None]
    if isinstance(op, ops.FileOp):
        return [one.output for one in op.actions if one.output is not None]
    return [0]
