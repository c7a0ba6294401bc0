"""Instructions as values, and the expansion of variables in them."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from lading.formats.dockerfile.errors import Lines
from lading.formats.dockerfile.lines import Heredoc

Expander = Callable[[str], str]
"""Replaces the variables of one word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """What every instruction has: its name as written, its text, and where it stands."""

    name: str
    code: str
    lines: Lines

    @property
    def keyword(self) -> str:
        """The name in upper case."""
        return self.name.upper()


@dataclass(frozen=True, slots=True)
class Pair:
    """A key and its value. ``old`` if they were divided by white space."""

    key: str
    value: str
    old: bool = False

    def __str__(self) -> str:
        return f"{self.key}={self.value}"

    def expanded(self, expand: Expander) -> "Pair":
        """With variables replaced, in the key too."""
        return Pair(expand(self.key), expand(self.value), self.old)


@dataclass(frozen=True, slots=True)
class Argument:
    """A build argument: its default, if it has one, and the words of a comment that describes it."""

    key: str
    value: str | None = None
    comment: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandLine:
    """A command: words, or one text for a shell with the heredocs that it names."""

    args: tuple[str, ...]
    shell: bool
    files: tuple[Heredoc, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Arg(Instruction):
    """``ARG``."""

    args: tuple[Argument, ...]

    def expanded(self, expand: Expander) -> "Arg":
        """With variables replaced."""
        return replace(
            self,
            args=tuple(
                replace(one, key=expand(one.key), value=None if one.value is None else expand(one.value))
                for one in self.args
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Env(Instruction):
    """``ENV``."""

    pairs: tuple[Pair, ...]

    def expanded(self, expand: Expander) -> "Env":
        """With variables replaced."""
        return replace(self, pairs=tuple(one.expanded(expand) for one in self.pairs))


@dataclass(frozen=True, slots=True, kw_only=True)
class Label(Instruction):
    """``LABEL``."""

    pairs: tuple[Pair, ...]

    def expanded(self, expand: Expander) -> "Label":
        """With variables replaced."""
        return replace(self, pairs=tuple(one.expanded(expand) for one in self.pairs))


@dataclass(frozen=True, slots=True, kw_only=True)
class Run(Instruction):
    """``RUN``. Mounts are text until variables have values (`mounts.parse_mount`)."""

    command: CommandLine
    mounts: tuple[str, ...] = ()
    network: str = "default"
    security: str = "sandbox"
    devices: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    """Names of the flags that it has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer(Instruction):
    """What ``ADD`` and ``COPY`` share. Heredocs are sources too."""

    sources: tuple[str, ...]
    files: tuple[Heredoc, ...] = ()
    dest: str
    chown: str = ""
    chmod: str = ""
    link: bool = False
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Add(Transfer):
    """``ADD``. ``None`` leaves to the kind of source whether it is unpacked, or a Git directory kept."""

    checksum: str = ""
    keep_git_dir: bool | None = None
    unpack: bool | None = None

    def unlinked(self) -> "Add":
        """Without ``--link``."""
        return replace(self, link=False)

    def expanded(self, expand: Expander) -> "Add":
        """With variables replaced."""
        return replace(
            self,
            chown=expand(self.chown),
            chmod=expand(self.chmod),
            checksum=expand(self.checksum),
            sources=tuple(expand(one) for one in self.sources),
            dest=expand(self.dest),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy(Transfer):
    """``COPY``. ``origin`` is its ``--from``."""

    origin: str = ""
    parents: bool = False

    def unlinked(self) -> "Copy":
        """Without ``--link``."""
        return replace(self, link=False)

    def expanded(self, expand: Expander) -> "Copy":
        """With variables replaced; ``--from`` has none."""
        return replace(
            self,
            chown=expand(self.chown),
            chmod=expand(self.chmod),
            sources=tuple(expand(one) for one in self.sources),
            dest=expand(self.dest),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cmd(Instruction):
    """``CMD``."""

    command: CommandLine


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrypoint(Instruction):
    """``ENTRYPOINT``."""

    command: CommandLine


@dataclass(frozen=True, slots=True, kw_only=True)
class Shell(Instruction):
    """``SHELL``."""

    shell: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Healthcheck(Instruction):
    """``HEALTHCHECK``; durations in nanoseconds, 0 for the default."""

    test: tuple[str, ...]
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Expose(Instruction):
    """``EXPOSE``: words that each may become several ports."""

    ports: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume(Instruction):
    """``VOLUME``."""

    volumes: tuple[str, ...]

    def expanded(self, expand: Expander) -> "Volume":
        """With variables replaced."""
        return replace(self, volumes=tuple(expand(one) for one in self.volumes))


@dataclass(frozen=True, slots=True, kw_only=True)
class Single(Instruction):
    """An instruction with one argument."""

    value: str

    def expanded(self, expand: Expander) -> "Single":
        """With variables replaced."""
        return replace(self, value=expand(self.value))


class User(Single):
    """``USER``."""

    __slots__ = ()


class Workdir(Single):
    """``WORKDIR``."""

    __slots__ = ()


class StopSignal(Single):
    """``STOPSIGNAL``."""

    __slots__ = ()


class Maintainer(Single):
    """``MAINTAINER``, whose variables nobody replaces."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Onbuild(Instruction):
    """``ONBUILD``: an instruction for those who build on the image, as text."""

    expression: str


@dataclass(frozen=True, slots=True, kw_only=True)
class From(Instruction):
    """``FROM``. ``stage`` is its name, lower-case; ``comment`` describes the stage."""

    base: str
    stage: str = ""
    platform: str = ""
    comment: str = ""


Command = (
    Arg
    | Env
    | Label
    | Run
    | Add
    | Copy
    | Cmd
    | Entrypoint
    | Shell
    | Healthcheck
    | Expose
    | Volume
    | User
    | Workdir
    | StopSignal
    | Maintainer
    | Onbuild
)
"""What stands in a stage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A FROM and what follows it."""

    head: From
    commands: tuple[Command, ...] = field(default=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Dockerfile:
    """A whole file: arguments before the first FROM, and stages."""

    arguments: tuple[Arg, ...]
    stages: tuple[Stage, ...]
    escape: str
