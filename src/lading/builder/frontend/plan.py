"""Which stages there are, what each builds on and reads, and in what the target ends: all before any image is looked up."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from lading.builder.frontend import checks
from lading.builder.frontend.arguments import Globals
from lading.builder.frontend.state import Planned, StageNode
from lading.errors import InvalidArgumentError
from lading.formats.dockerfile import instructions as ins
from lading.formats.dockerfile import rules
from lading.formats.dockerfile.errors import DockerfileError, Lines
from lading.formats.dockerfile.mounts import stage_of
from lading.formats.dockerfile.shell import Expanded, Lexer
from lading.formats.dockerfile.suggest import suggested
from lading.oci import platform as platforms
from lading.oci.descriptor import Platform

SCRATCH = "scratch"
COUNTED = (ins.Add, ins.Copy, ins.Run, ins.Workdir)
"""Instructions that make a vertex."""

FindContext = Callable[[str, Platform], str]
"""`contexts.Contexts.find`."""


@dataclass(slots=True, kw_only=True)
class Plan:
    """The stages in order; images that instructions name follow them."""

    nodes: list[StageNode] = field(default_factory=list[StageNode])
    goal: StageNode = field(init=False)
    """The stage to build."""
    _named: dict[str, StageNode] = field(default_factory=dict[str, StageNode])

    def add(self, node: StageNode) -> None:
        """Add a stage; one before it of the name of its base is its base."""
        self.nodes.append(node)
        if not node.context:
            node.base = self._named.get(node.base_name.lower())
        if node.name:
            self._named[node.name] = node

    def find(self, name: str) -> StageNode | None:
        """The last stage of this name, in any case."""
        return self._named.get(name.lower())

    def aim(self, name: str) -> None:
        """Choose the stage to build: the last one, if no name is given. Raises `InvalidArgumentError`."""
        found = (self.find(name) or self._by_number(name)) if name else self.nodes[-1]
        if found is None:
            shown = [node.shown for node in self.nodes]
            raise InvalidArgumentError(
                suggested(f'target stage "{name}" could not be found', name, shown), subject=name
            )
        self.goal = found

    def _by_number(self, text: str) -> StageNode | None:
        number = _number(text)
        return self.nodes[number] if number is not None and 0 <= number < len(self.nodes) else None

    # Instructions.

    def planned(self, command: ins.Command, lexer: Lexer, *, onbuild: bool = False) -> Planned:
        """An instruction with the stages that it reads. Raises `DockerfileError`."""
        sources: tuple[StageNode | None, ...] = ()
        if isinstance(command, ins.Copy) and command.origin:
            sources = (self._origin(command, lexer),)
        elif isinstance(command, ins.Run):
            sources = tuple(self._stage_or_image(stage_of(mount), command.lines) for mount in command.mounts)
        return Planned(command=command, sources=sources, onbuild=onbuild)

    def _origin(self, copy: ins.Copy, lexer: Lexer) -> StageNode | None:
        if lexer.expand(copy.origin, {}).text != copy.origin:
            raise DockerfileError(
                "variable expansion is not supported for --from, "
                "define a new stage with FROM using ARG from global scope as a workaround",
                lines=copy.lines,
            )
        number = _number(copy.origin)
        if number is not None:
            found = self._by_number(copy.origin)
            if found is None:
                raise DockerfileError(f"invalid stage index {number}", lines=copy.lines)
            return found
        return self._stage_or_image(copy.origin, copy.lines)

    def _stage_or_image(self, name: str, lines: Lines) -> StageNode | None:
        if not name:
            return None
        return self.find(name) or StageNode(base_name=name, lines=lines, implicit=True)

    def depend(self, node: StageNode, planned: Planned) -> bool:
        """Let a stage depend on what an instruction reads; whether that is anything."""
        for source in planned.sources:
            if source is not None:
                node.dependencies[source] = planned.command.lines
                if source.implicit:
                    self.add(source)  # each is an instruction's own
        return any(source is not None for source in planned.sources)

    def check_cycles(self) -> None:
        """Raises `DockerfileError` if a stage needs itself."""
        done: set[StageNode] = set()
        for start in self.nodes:
            path: dict[StageNode, None] = {}
            stack: list[tuple[StageNode, Lines, bool]] = [(start, start.lines, False)]
            while stack:
                node, lines, leaving = stack.pop()
                if leaving:
                    path.pop(node)
                    done.add(node)
                elif node in path:
                    raise DockerfileError(
                        f"circular dependency detected on stage: {start.shown}", lines=lines
                    )
                elif node not in done:
                    path[node] = None
                    stack.append((node, lines, True))
                    stack.extend((one, place, False) for one, place in node.dependencies.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class Planner:
    """Makes a plan of a Dockerfile."""

    globals: Globals
    lexer: Lexer
    report: rules.Report
    find_context: FindContext
    target: Platform
    ignores_cache: Callable[[str], bool]

    def plan(self, stages: Sequence[ins.Stage], target: str) -> Plan:
        """Raises `DockerfileError` with the lines at fault, or `InvalidArgumentError` if there is no such target."""
        plan = Plan()
        for number, stage in enumerate(stages):
            try:
                self._add(plan, number, stage)
            except DockerfileError as exc:
                raise exc.at(stage.head.lines) from exc
        plan.aim(target)
        for node, stage in zip(list(plan.nodes), stages, strict=True):
            if node.context:
                continue
            for command in stage.commands:
                planned = self._planned(plan, command)
                node.commands.append(planned)
                plan.depend(node, planned)
        plan.check_cycles()
        if len(plan.nodes) == 1:
            plan.nodes[0].shown = ""
        return plan

    def _planned(self, plan: Plan, command: ins.Command) -> Planned:
        try:
            return plan.planned(command, self.lexer)
        except DockerfileError as exc:
            raise exc.at(command.lines) from exc

    def _add(self, plan: Plan, number: int, stage: ins.Stage) -> None:
        head = stage.head
        name = self._expand(head.base, head.lines)
        if not name.text:
            raise DockerfileError(f"base name ({head.base}) should not be blank")
        node = StageNode(
            base_name=name.text,
            lines=head.lines,
            head=head,
            name=head.stage,
            shown=head.stage or f"stage-{number}",
            used_arguments=set(name.found),
        )
        if head.platform:
            node.platform = self._platform(head, node.used_arguments)
        if head.stage:
            node.context = self.find_context(head.stage, node.platform or self.target)
        plan.add(node)
        if not node.context:
            node.steps = _steps(node, stage)
            node.ignore_cache = self.ignores_cache(head.stage)

    def _expand(self, text: str, lines: Lines) -> Expanded:
        expanded = self.lexer.expand(text, self.globals.variables)
        known = {*self.globals.variables, *self.globals.definitions}
        checks.check_from_variables(expanded, known, lines, self.report)
        return expanded

    def _platform(self, head: ins.From, used: set[str]) -> Platform:
        expanded = self._expand(head.platform, head.lines)
        checks.check_platform_flag(head, expanded, self.globals.variables, self.report)
        if not expanded.text:
            raise DockerfileError(
                _hinted(
                    f"empty platform value from expression {head.platform}", expanded, self.globals.variables
                )
            )
        try:
            platform = platforms.parse(expanded.text)
        except InvalidArgumentError as exc:
            message = f"failed to parse platform {head.platform}: {exc}"
            raise DockerfileError(_hinted(message, expanded, self.globals.variables)) from exc
        used |= expanded.found
        return platform


def _number(text: str) -> int | None:
    """A number as Go's ``strconv.Atoi`` takes it; ``None`` if it is none, or none of 64 bits: a name, then."""
    return int(text) if re.fullmatch("[+-]?[0-9]{1,18}", text) else None


def _hinted(message: str, expanded: Expanded, variables: Mapping[str, str]) -> str:
    for name in sorted(expanded.missing):
        hinted = suggested(message, name, variables)
        if hinted != message:
            return hinted
    return message


def _steps(node: StageNode, stage: ins.Stage) -> int:
    own_base = node.base is None and node.base_name != SCRATCH
    return own_base + sum(isinstance(command, COUNTED) for command in stage.commands)
