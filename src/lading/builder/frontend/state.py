"""Stages: as they are planned, and as their instructions find them."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from lading.builder.frontend.arguments import Definition
from lading.builder.frontend.image import Draft
from lading.formats.dockerfile import instructions as ins
from lading.formats.dockerfile.errors import Lines
from lading.formats.llb.make import Edge
from lading.formats.llb.metadata import Location, SourceFile, SourceRange
from lading.oci.descriptor import Platform


def ranges(lines: Lines) -> tuple[SourceRange, ...]:
    """Lines as BuildKit tells them: one range for each."""
    return tuple(SourceRange(start=line, end=line) for line in range(lines.start, lines.end + 1))


def location(file: SourceFile, lines: Lines) -> tuple[Location, ...]:
    """A place as LLB carries it."""
    return (Location(file=file, ranges=ranges(lines)),)


@dataclass(slots=True, kw_only=True, eq=False)
class LocalContext:
    """A directory of the client that is a stage; which files are wanted is known when all instructions are."""

    name: str
    shown: str
    """Its key among the options, with the platform if that is part of it."""
    excludes: tuple[str, ...] = ()


Tree = Edge | LocalContext | None
"""A tree, a directory that becomes one, or the empty tree."""


@dataclass(slots=True, kw_only=True)
class Planned:
    """An instruction of a stage with the stages that it reads: one for a COPY, one for each mount of a RUN."""

    command: ins.Command
    sources: "tuple[StageNode | None, ...]" = ()
    onbuild: bool = False


@dataclass(slots=True, kw_only=True, eq=False)
class StageNode:
    """A stage of the plan, or an image that an instruction names (``implicit``)."""

    base_name: str
    lines: Lines
    head: ins.From | None = None
    name: str = ""
    """Its own, lower-case; empty without one."""
    shown: str = ""
    """In the names of its vertices; empty if it is the only one."""
    implicit: bool = False
    platform: Platform | None = None
    base: "StageNode | None" = None
    context: str = ""
    """The option that replaces it with a named context."""
    commands: list[Planned] = field(default_factory=list[Planned])
    dependencies: "dict[StageNode, Lines]" = field(default_factory=dict["StageNode", Lines])
    ignore_cache: bool = False
    steps: int = 0
    """How many of its vertices are counted in their names."""
    first_step: int = 0
    """How many of them its base has."""
    used_arguments: set[str] = field(default_factory=set[str])
    onbuild_taken: bool = False
    # What its base turned out to be.
    resolved: bool = False
    tree: Tree = None
    draft: Draft | None = None
    base_config: bytes | None = None
    replaced: bool = False
    """A named context stands in its place; it has no instructions of its own."""

    @property
    def settled(self) -> bool:
        """Whether there is nothing to do but to use its tree."""
        return self.implicit or self.replaced


def reachable(node: StageNode) -> dict[StageNode, None]:
    """A stage and every stage that it needs, in no particular order."""
    found: dict[StageNode, None] = {}
    stack = [node]
    while stack:
        one = stack.pop()
        if one not in found:
            found[one] = None
            stack.extend(one.dependencies)
            if one.base is not None:
                stack.append(one.base)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A secret or an agent that an instruction uses."""

    required: bool
    lines: Lines


@dataclass(slots=True, kw_only=True, eq=False)
class Work:
    """A stage while its instructions are carried out."""

    node: StageNode
    tree: Edge | None
    draft: Draft
    platform: Platform
    env: dict[str, str] = field(default_factory=dict[str, str])
    """Variables as instructions see them: those of the image, and build arguments."""
    directory: str = "/"
    user: str = ""
    arguments: list[ins.Argument] = field(default_factory=list[ins.Argument])
    """Build arguments in scope, with their values."""
    workdir_set: bool = False
    used_paths: set[str] = field(default_factory=set[str])
    """What is used of the tree that it began with; shared with its base."""
    context_paths: set[str] = field(default_factory=set[str])
    step: int = 0
    onbuild: bool = False
    single: dict[str, Lines] = field(default_factory=dict[str, Lines])
    """Where instructions stood that count once."""
    definitions: dict[str, Definition] = field(default_factory=dict[str, Definition])
    """Build arguments that it declares."""
    secrets: dict[str, Wanted] = field(default_factory=dict[str, Wanted])
    agents: dict[str, Wanted] = field(default_factory=dict[str, Wanted])
    scans: set[str] = field(default_factory=set[str])
    """``stage`` or ``context``, if these are to be listed for an SBOM."""

    def set_variable(self, key: str, value: str) -> None:
        """Set a variable; the last one set is the last one."""
        self.env.pop(key, None)
        self.env[key] = value


def as_paths(used: Iterable[str]) -> list[str]:
    """Used paths as a client follows them, sorted; empty if everything is used."""
    found = set(used)
    return [] if "/" in found else sorted(path.lstrip("/") for path in found)
