"""What a client asks of the legacy builder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lading.core.remotes import Credentials
from lading.errors import InvalidArgumentError
from lading.formats.dockerfile import instructions as ins
from lading.formats.dockerfile.errors import DockerfileError
from lading.oci import reference

_GUIDE = "Refer to https://docs.docker.com/go/buildkit/ to learn how to build images with BuildKit enabled"


@dataclass(frozen=True, slots=True, kw_only=True)
class LegacyWish:
    """One build. ``attributes`` are those of the frontend; ``remote`` a context that is fetched instead of uploaded."""

    attributes: Mapping[str, str]
    names: Sequence[str] = ()
    remote: str = ""
    quiet: bool = False
    keep_containers: bool = False
    no_cache: bool = False
    build_id: str = ""
    cache_from: bool = False
    """Whether images were named to take cached steps from. The cache is one for all builds, so this narrows nothing."""
    credentials: Mapping[str, Credentials] = field(default_factory=dict[str, Credentials], repr=False)


def checked(dockerfile: ins.Dockerfile) -> ins.Dockerfile:
    """The file as the legacy builder takes it: ``--link`` means nothing. Raises `DockerfileError` for what it never knew."""
    stages = tuple(
        ins.Stage(head=stage.head, commands=tuple(_checked(one) for one in stage.commands))
        for stage in dockerfile.stages
    )
    return ins.Dockerfile(arguments=dockerfile.arguments, stages=stages, escape=dockerfile.escape)


def _checked(command: ins.Command) -> ins.Command:
    if isinstance(command, ins.Run) and command.flags:
        raise _needs_buildkit(f"--{command.flags[0]} option", command)
    if isinstance(command, ins.Run) and command.command.files:
        raise _needs_buildkit("heredoc", command)
    if isinstance(command, ins.Add | ins.Copy):
        return _checked_transfer(command)
    return command


def _checked_transfer(command: ins.Add | ins.Copy) -> ins.Add | ins.Copy:
    if command.files:
        raise _needs_buildkit("heredoc", command)
    wanted = {"chmod": command.chmod, "exclude": command.exclude}
    if isinstance(command, ins.Copy):
        wanted["parents"] = "yes" if command.parents else ""
    else:
        wanted |= {
            "checksum": command.checksum,
            "keep-git-dir": "" if command.keep_git_dir is None else "yes",
            "unpack": "" if command.unpack is None else "yes",
        }
    for name, value in wanted.items():
        if value:
            raise _needs_buildkit(f"--{name} option", command)
    return command.unlinked()


def _needs_buildkit(what: str, command: ins.Instruction) -> DockerfileError:
    return DockerfileError(f"the {what} requires BuildKit. {_GUIDE}", lines=command.lines)


def steps_of(dockerfile: ins.Dockerfile) -> int:
    """How many steps are counted: arguments before the first FROM, stages, and instructions."""
    return len(dockerfile.arguments) + sum(1 + len(stage.commands) for stage in dockerfile.stages)


def unused_arguments(dockerfile: ins.Dockerfile, given: Mapping[str, str]) -> list[str]:
    """Build arguments that no ARG asks for; proxies need none."""
    commands = [*dockerfile.arguments, *(one for stage in dockerfile.stages for one in stage.commands)]
    declared = {argument.key for one in commands if isinstance(one, ins.Arg) for argument in one.args}
    proxies = {f"{kind}_proxy" for kind in ("http", "https", "ftp", "no", "all")}
    return sorted(key for key in given if key not in declared and key.lower() not in proxies)


def names_of(values: Sequence[str]) -> list[str]:
    """Tags as given, without empty ones. Raises `InvalidArgumentError` for one with a digest."""
    names = [name for name in values if name]
    for name in names:
        if reference.parse(name).digest is not None:
            raise InvalidArgumentError("build tag cannot contain a digest", subject=name)
    return names
