"""RUN: a command, what it runs in, and what is mounted there."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from lading.builder.frontend.contexts import internal, named
from lading.builder.frontend.naming import raw, shown_command, summary
from lading.builder.frontend.scope import Scope
from lading.builder.frontend.shells import with_shell
from lading.builder.frontend.state import StageNode, Wanted, Work
from lading.formats.dockerfile import instructions as ins
from lading.formats.dockerfile.errors import DockerfileError
from lading.formats.dockerfile.lines import parse_heredoc
from lading.formats.dockerfile.mounts import RunMount, parse_device, parse_mount
from lading.formats.dockerfile.patterns import clean
from lading.formats.llb import make, ops
from lading.formats.llb.make import Edge, MountWish, Style
from lading.kit.text import printable

_SHARING = {"private": ops.CacheSharing.PRIVATE, "locked": ops.CacheSharing.LOCKED}
_SHARED_MEMORY = "/dev/shm"  # noqa: S108 - of the container
_SCRIPTS = "/dev/pipes/"
"""Where the script of a heredoc is run from."""


@dataclass(slots=True, kw_only=True)
class _Mounts:
    """What is mounted: trees, then secrets and agents."""

    wishes: list[MountWish] = field(default_factory=list[MountWish])
    secrets: list[ops.Mount] = field(default_factory=list[ops.Mount])
    agents: list[ops.Mount] = field(default_factory=list[ops.Mount])
    variables: list[ops.SecretEnv] = field(default_factory=list[ops.SecretEnv])


def run(work: Work, command: ins.Run, sources: Sequence[StageNode | None], scope: Scope) -> None:
    """Carry out a RUN. Raises `DockerfileError`."""
    if command.devices:
        _refuse_devices(command)
    work.used_paths.add("/")
    mounts = _Mounts()
    shown = command.code
    args = command.command.args
    if command.command.files:
        args, more = _with_heredocs(command, mounts)
        shown += more
    if command.command.shell:
        args = with_shell(work.draft, args)
    _take_mounts(work, command, sources, scope, mounts)
    if scope.options.shm_size > 0:
        size = scope.options.shm_size
        mount = ops.Mount(dest=_SHARED_MEMORY, type=ops.MountType.TMPFS, tmpfs_size=size)
        mounts.wishes.append(MountWish(mount=mount))
    op = _operation(work, command, args, scope, mounts)
    masked = {**work.env, **dict.fromkeys((one.name for one in mounts.variables), "****")}
    name = scope.step(work, shown_command(shown, raw(scope.lexer), masked))
    root = MountWish(mount=ops.Mount(dest="/"), source=work.tree, keep=True)
    style = scope.style(work, command, name, command=command.code)
    work.tree = make.execute(op, [root, *mounts.wishes], style, *_caps(op, mounts.wishes))[1]["/"]
    told = [*_told_arguments(work), *args]
    scope.record(work, f"RUN {' '.join(told)} # buildkit", layer=True)


def _refuse_devices(command: ins.Run) -> None:
    names = ", ".join(parse_device(text).name for text in command.devices)
    raise DockerfileError(f"RUN --device is not supported by this builder (it was given {names})")


def _with_heredocs(command: ins.Run, mounts: _Mounts) -> tuple[tuple[str, ...], str]:
    """The command with its heredocs: a script to run, a text for the shell, or what the shell is to sort out."""
    args, files = command.command.args, command.command.files
    if parse_heredoc(args[0]) is None:
        return ("\n".join([args[0], *(f"{one.content}{one.name}" for one in files)]),), ""
    first = files[0]
    told = f" ({summary(first.content)})"
    if not first.content.startswith("#!"):
        return (first.text,), told
    script = ops.MakeFile(path=f"/{first.name}", mode=0o755, data=_bytes(first.text))
    tree = make.change(None, [(script, None)], internal("preparing inline document"))
    mount = ops.Mount(dest=_SCRIPTS, selector="/", readonly=True)
    mounts.wishes.append(MountWish(mount=mount, source=tree))
    return (_SCRIPTS + first.name,), told


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _operation(
    work: Work, command: ins.Run, args: Sequence[str], scope: Scope, mounts: _Mounts
) -> ops.ExecOp:
    network = {"none": ops.NetMode.NONE, "host": ops.NetMode.HOST}.get(command.network, scope.options.network)
    agents = [
        replace(mount, dest=mount.dest or f"/run/buildkit/ssh_agent.{number}")
        for number, mount in enumerate(mounts.agents)
    ]
    env = dict(work.env)
    if agents:
        env.setdefault("SSH_AUTH_SOCK", agents[0].dest)
    scope.lexer.allowance.spend(sum(len(key) + len(value) for key, value in env.items()))
    return ops.ExecOp(
        meta=ops.Meta(
            args=tuple(map(printable, args)),
            env=tuple(printable(f"{key}={value}") for key, value in env.items()),
            cwd=work.directory,
            user=work.user,
            proxy_env=scope.proxy,
            extra_hosts=scope.options.extra_hosts,
            hostname=scope.options.hostname,
            ulimits=scope.options.ulimits,
            cgroup_parent=scope.options.cgroup_parent,
            remove_mount_stubs_recursive=True,
        ),
        mounts=(*mounts.secrets, *agents),
        network=network,
        security=ops.SecurityMode.INSECURE if command.security == "insecure" else ops.SecurityMode.SANDBOX,
        secret_env=tuple(mounts.variables),
    )


def _told_arguments(work: Work) -> list[str]:
    """``|2 a=b c=d``: the build arguments in scope, as the history shows them before a command."""
    told: dict[str, str] = {}
    for argument in work.arguments:
        told[argument.key] = work.env.get(argument.key, argument.value or "")
    return [f"|{len(told)}", *(f"{key}={value}" for key, value in told.items())] if told else []


def _caps(op: ops.ExecOp, wishes: Iterable[MountWish]) -> list[str]:
    """Abilities that the process needs of a solver."""
    caps = {
        "exec.meta.base": True,
        "exec.meta.setsdefaultpath": True,
        "exec.meta.proxyenv": op.meta.proxy_env is not None,
        "exec.meta.ulimit": bool(op.meta.ulimits),
        "exec.meta.network": op.network is not ops.NetMode.UNSET,
        "exec.meta.security": op.security is not ops.SecurityMode.SANDBOX,
        "exec.mount.secret": any(mount.secret for mount in op.mounts) or bool(op.secret_env),
        "exec.secretenv": bool(op.secret_env),
        "exec.mount.ssh": any(mount.ssh for mount in op.mounts),
    }
    for wish in wishes:
        caps["exec.mount.selector"] = caps.get("exec.mount.selector", False) or bool(wish.mount.selector)
        kind = wish.mount.type
        if kind is ops.MountType.CACHE:
            caps |= {"exec.mount.cache": True, "exec.mount.cache.sharing": True}
        elif kind is ops.MountType.TMPFS:
            caps |= {"exec.mount.tmpfs": True}
            caps["exec.mount.tmpfs.size"] = caps.get("exec.mount.tmpfs.size", False) or bool(
                wish.mount.tmpfs_size
            )
        else:
            caps["exec.mount.bind"] = True
    return [cap for cap, needed in caps.items() if needed]


# Mounts.


def _take_mounts(
    work: Work, command: ins.Run, sources: Sequence[StageNode | None], scope: Scope, mounts: _Mounts
) -> None:
    for text, source in zip(command.mounts, sources, strict=True):
        mount = parse_mount(text, lambda word: scope.expand(work, word, command.lines))
        if mount.type == "secret":
            _take_secret(work, command, mount, mounts)
        elif mount.type == "ssh":
            _take_agent(work, command, mount, mounts)
        else:
            mounts.wishes.append(_wish(work, mount, source, scope))


def _wish(work: Work, mount: RunMount, source: StageNode | None, scope: Scope) -> MountWish:
    target = _target(work, mount)
    tree = _source(mount, source, scope)
    selector = clean(f"/{mount.source}") if mount.source else "/"
    owned = (mount.uid, mount.gid, mount.mode) != (None, None, None)
    if selector == "/" and owned:
        tree, selector = _cache_root(mount, tree, work), "/cache"
    made = ops.Mount(
        dest=target,
        selector="" if selector == "/" else selector,
        readonly=mount.readonly,
        type={"tmpfs": ops.MountType.TMPFS, "cache": ops.MountType.CACHE}.get(mount.type, ops.MountType.BIND),
        tmpfs_size=mount.size if mount.type == "tmpfs" else None,
        cache=_cache(mount, scope) if mount.type == "cache" else None,
    )
    used = clean(f"/{mount.source}")
    if mount.type == "bind" and source is None and not mount.origin:
        work.context_paths.add(used)
    elif source is not None:
        scope.works[source].used_paths.add(used)
    return MountWish(mount=made, source=tree)


def _target(work: Work, mount: RunMount) -> str:
    target = mount.target
    if not clean(target).startswith("/"):
        target = clean(f"/{work.directory}/{target}")
    if target == "/":
        raise DockerfileError(f'invalid mount target "{target}"')
    return target


def _source(mount: RunMount, source: StageNode | None, scope: Scope) -> Edge | None:
    if mount.type == "tmpfs":
        return None
    if source is not None:
        return scope.tree_of(
            source,
            f'cannot mount from stage "{mount.origin}" to "{mount.target}", '
            "stage needs to be defined before current command",
        )
    return None if mount.type == "cache" else scope.context


def _cache(mount: RunMount, scope: Scope) -> ops.CacheOptions:
    name = mount.id or clean(mount.target)
    return ops.CacheOptions(
        id=f"{scope.options.cache_namespace}/{name}",
        sharing=_SHARING.get(mount.sharing, ops.CacheSharing.SHARED),
    )


def _cache_root(mount: RunMount, tree: Edge | None, work: Work) -> Edge:
    """A directory with the owner and mode that were asked for, in which the cache is."""
    made = ops.MakeDirectory(
        path="/cache",
        mode=0o755 if mount.mode is None else mount.mode & 0o777,
        owner=ops.Owner(user=mount.uid or 0, group=mount.gid or 0),
    )
    style = Style(platform=work.platform, metadata=named("[internal] setting cache mount permissions"))
    return make.change(tree, [(made, None)], style)


def _take_secret(work: Work, command: ins.Run, mount: RunMount, mounts: _Mounts) -> None:
    name = mount.source or mount.id or mount.target.rstrip("/").rpartition("/")[2]
    target = mount.target
    if mount.env is None and not target:
        target = f"/run/secrets/{name.rstrip('/').rpartition('/')[2]}"
    work.secrets.setdefault(name, Wanted(required=mount.required, lines=command.lines))
    if mount.env is not None:
        variable = mount.env or name
        mounts.variables.append(ops.SecretEnv(id=name, name=variable, optional=not mount.required))
    if target:
        mounts.secrets.append(
            ops.Mount(
                dest=target,
                output=0,
                type=ops.MountType.SECRET,
                secret=_options(mount, name, 0o400),
            )
        )


def _take_agent(work: Work, command: ins.Run, mount: RunMount, mounts: _Mounts) -> None:
    if mount.source:
        raise DockerfileError("ssh does not support source")
    name = mount.id or "default"
    work.agents.setdefault(name, Wanted(required=mount.required, lines=command.lines))
    agent = ops.Mount(
        dest=mount.target, output=0, type=ops.MountType.SSH, ssh=_options(mount, mount.id, 0o600)
    )
    mounts.agents.append(agent)


def _options(mount: RunMount, name: str, mode: int) -> ops.SecretOptions:
    return ops.SecretOptions(
        id=name,
        uid=mount.uid or 0,
        gid=mount.gid or 0,
        mode=mode if mount.mode is None else mount.mode,
        optional=not mount.required,
    )
