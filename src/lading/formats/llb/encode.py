"""Operations to bytes, as BuildKit's client library marshals them, so that equal operations have equal digests."""

from collections.abc import Sequence
from typing import Final

from lading.formats.llb import ops
from lading.formats.llb._pb import ops_pb2 as pb
from lading.formats.llb.definition import Definition
from lading.oci.descriptor import Platform

_NONE: Final = -1
"""On the wire, the number of an input, output, mode or time that there is none of."""


def encode_op(
    op: ops.Op,
    inputs: Sequence[ops.Input] = (),
    *,
    platform: Platform | None = None,
    filters: Sequence[str] = (),
) -> bytes:
    """A ``pb.Op`` with an operation. The constraints are written even if empty, as BuildKit does."""
    message = pb.Op(inputs=[_input(one) for one in inputs], constraints=pb.WorkerConstraints(filter=filters))
    if platform is not None:
        message.platform.CopyFrom(platform_message(platform))
    match op:
        case ops.SourceOp():
            message.source.CopyFrom(pb.SourceOp(identifier=op.identifier, attrs=op.attrs))
        case ops.ExecOp():
            message.exec.CopyFrom(_exec(op))
        case ops.FileOp():
            message.file.CopyFrom(pb.FileOp(actions=[_file_action(one) for one in op.actions]))
        case ops.MergeOp():
            message.merge.CopyFrom(pb.MergeOp(inputs=[pb.MergeInput(input=one) for one in op.inputs]))
        case ops.DiffOp():
            lower, upper = pb.LowerDiffInput(input=_or(op.lower)), pb.UpperDiffInput(input=_or(op.upper))
            message.diff.CopyFrom(pb.DiffOp(lower=lower, upper=upper))
        case ops.BuildOp():
            message.build.CopyFrom(_build(op))
    return message.SerializeToString(deterministic=True)


def encode_terminal(result: ops.Input) -> bytes:
    """The last ``pb.Op`` of a definition, which names its result."""
    return pb.Op(inputs=[_input(result)]).SerializeToString(deterministic=True)


def _or(number: int | None) -> int:
    return _NONE if number is None else number


def _input(value: ops.Input) -> pb.Input:
    return pb.Input(digest=value.digest, index=value.index)


def platform_message(value: Platform) -> pb.Platform:
    """A platform as a message."""
    return pb.Platform(
        OS=value.os,
        Architecture=value.architecture,
        Variant=value.variant,
        OSVersion=value.os_version,
        OSFeatures=value.os_features,
    )


# Processes.


def _exec(op: ops.ExecOp) -> pb.ExecOp:
    return pb.ExecOp(
        meta=_meta(op.meta),
        mounts=[_mount(one) for one in op.mounts],
        network=op.network.name,
        security=op.security.name,
        secretenv=[pb.SecretEnv(ID=one.id, name=one.name, optional=one.optional) for one in op.secret_env],
        cdiDevices=[pb.CDIDevice(name=one.name, optional=one.optional) for one in op.devices],
    )


def _meta(meta: ops.Meta) -> pb.Meta:
    message = pb.Meta(
        args=meta.args,
        env=meta.env,
        cwd=meta.cwd,
        user=meta.user,
        extraHosts=[pb.HostIP(Host=one.host, IP=one.ip) for one in meta.extra_hosts],
        hostname=meta.hostname,
        ulimit=[pb.Ulimit(Name=one.name, Soft=one.soft, Hard=one.hard) for one in meta.ulimits],
        cgroupParent=meta.cgroup_parent,
        removeMountStubsRecursive=meta.remove_mount_stubs_recursive,
        validExitCodes=meta.valid_exit_codes,
    )
    proxy = meta.proxy_env
    if proxy is not None:
        message.proxy_env.CopyFrom(
            pb.ProxyEnv(
                http_proxy=proxy.http_proxy,
                https_proxy=proxy.https_proxy,
                ftp_proxy=proxy.ftp_proxy,
                no_proxy=proxy.no_proxy,
                all_proxy=proxy.all_proxy,
            )
        )
    return message


def _mount(mount: ops.Mount) -> pb.Mount:
    message = pb.Mount(
        input=_or(mount.input),
        selector=mount.selector,
        dest=mount.dest,
        output=_or(mount.output),
        readonly=mount.readonly,
        mountType=mount.type.name,
        contentCache=mount.content_cache.name,
    )
    if mount.tmpfs_size is not None:
        message.TmpfsOpt.CopyFrom(pb.TmpfsOpt(size=mount.tmpfs_size))
    if mount.cache is not None:
        sharing = mount.cache.sharing.name
        message.cacheOpt.CopyFrom(pb.CacheOpt(ID=mount.cache.id, sharing=sharing))
    if mount.secret is not None:
        one = mount.secret
        message.secretOpt.CopyFrom(
            pb.SecretOpt(ID=one.id, uid=one.uid, gid=one.gid, mode=one.mode, optional=one.optional)
        )
    if mount.ssh is not None:
        one = mount.ssh
        message.SSHOpt.CopyFrom(
            pb.SSHOpt(ID=one.id, uid=one.uid, gid=one.gid, mode=one.mode, optional=one.optional)
        )
    return message


# Files.


def _file_action(value: ops.FileAction) -> pb.FileAction:
    message = pb.FileAction(
        input=_or(value.input), secondaryInput=_or(value.secondary), output=_or(value.output)
    )
    action = value.action
    match action:
        case ops.Copy():
            message.copy.CopyFrom(_copy(action))
        case ops.MakeFile():
            message.mkfile.CopyFrom(
                pb.FileActionMkFile(
                    path=action.path,
                    mode=action.mode,
                    data=action.data,
                    owner=_owner(action.owner),
                    timestamp=_or(action.timestamp),
                )
            )
        case ops.MakeDirectory():
            message.mkdir.CopyFrom(
                pb.FileActionMkDir(
                    path=action.path,
                    mode=action.mode,
                    makeParents=action.make_parents,
                    owner=_owner(action.owner),
                    timestamp=_or(action.timestamp),
                )
            )
        case ops.MakeSymlink():
            message.symlink.CopyFrom(
                pb.FileActionSymlink(
                    oldpath=action.target,
                    newpath=action.path,
                    owner=_owner(action.owner),
                    timestamp=_or(action.timestamp),
                )
            )
        case ops.Remove():
            message.rm.CopyFrom(
                pb.FileActionRm(
                    path=action.path,
                    allowNotFound=action.allow_not_found,
                    allowWildcard=action.allow_wildcard,
                )
            )
    return message


def _copy(action: ops.Copy) -> pb.FileActionCopy:
    return pb.FileActionCopy(
        src=action.src,
        dest=action.dest,
        owner=_owner(action.owner),
        mode=action.mode if isinstance(action.mode, int) else 0 if action.mode else _NONE,
        modeStr=action.mode if isinstance(action.mode, str) else "",
        followSymlink=action.follow_symlink,
        dirCopyContents=action.dir_copy_contents,
        attemptUnpackDockerCompatibility=action.attempt_unpack,
        createDestPath=action.create_dest_path,
        allowWildcard=action.allow_wildcard,
        allowEmptyWildcard=action.allow_empty_wildcard,
        timestamp=_or(action.timestamp),
        include_patterns=action.include,
        exclude_patterns=action.exclude,
        alwaysReplaceExistingDestPaths=action.always_replace,
    )


def _owner(owner: ops.Owner | None) -> pb.ChownOpt | None:
    if owner is None:
        return None
    return pb.ChownOpt(user=_user(owner.user), group=_user(owner.group))


def _user(user: ops.NamedUser | int | None) -> pb.UserOpt | None:
    if user is None:
        return None
    if isinstance(user, int):
        return pb.UserOpt(byID=user)
    return pb.UserOpt(byName=pb.NamedUserOpt(name=user.name, input=_or(user.input)))


def _build(op: ops.BuildOp) -> pb.BuildOp:
    message = pb.BuildOp(
        builder=_or(op.builder),
        inputs={name: pb.BuildInput(input=number) for name, number in op.inputs.items()},
        attrs=op.attrs,
    )
    if op.definition is not None:
        message.definition.CopyFrom(definition_message(op.definition))
    return message


def definition_message(definition: Definition) -> pb.Definition:
    """A definition as the message that other messages hold."""
    return pb.Definition(ops=definition.ops, metadata={**definition.metadata}, source=definition.source)


def encode_definition(definition: Definition) -> bytes:
    """A ``pb.Definition``."""
    return definition_message(definition).SerializeToString(deterministic=True)
