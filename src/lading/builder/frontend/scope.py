"""What all instructions of one platform's build see, and how a vertex of theirs is described."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from uuid import uuid4

from lading.builder.frontend import checks
from lading.builder.frontend.arguments import Globals
from lading.builder.frontend.contexts import named
from lading.builder.frontend.naming import shown_command, step_name
from lading.builder.frontend.options import Options
from lading.builder.frontend.state import Planned, StageNode, Work, location
from lading.formats.dockerfile import rules
from lading.formats.dockerfile.errors import DockerfileError, Lines
from lading.formats.dockerfile.instructions import Instruction
from lading.formats.dockerfile.patterns import Matcher
from lading.formats.dockerfile.shell import Lexer
from lading.formats.llb.make import Edge, Style
from lading.formats.llb.metadata import Metadata, ProgressGroup, SourceFile
from lading.formats.llb.ops import ProxyEnv
from lading.oci.descriptor import Platform

_ENTRY = 20
"""What an entry of a list or map counts, in characters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """One platform's build."""

    options: Options
    globals: Globals
    lexer: Lexer
    file: SourceFile
    report: rules.Report
    proxy: ProxyEnv | None
    target: Platform
    context: Edge | None
    """The build context."""
    ignored: Matcher | None
    """What is not in it."""
    observe: Callable[[Work, Planned | None], None] | None = None
    """Hears of every stage that begins (``None``) and every instruction that was carried out."""
    empty_wildcards: bool = True
    """Whether the only source of a COPY or ADD may be a wildcard that fits nothing."""
    own_groups: bool = True
    """Whether files of a user who is given without a group are of his own, or else of the one of his name."""
    works: dict[StageNode, Work] = field(default_factory=dict[StageNode, Work])
    """Stages that are done."""

    def expand(self, work: Work, text: str, lines: Lines, lexer: Lexer | None = None) -> str:
        """A word with its variables replaced; those that nobody set are remarked. Raises `DockerfileError`."""
        expanded = (lexer or self.lexer).expand(text, work.env)
        checks.check_variables(expanded.missing, work.env, work.arguments, lines, self.report)
        return expanded.text

    def tree_of(self, source: StageNode, complaint: str) -> Edge | None:
        """The tree of a stage that an instruction reads. Raises `DockerfileError` if that is not done yet."""
        if source not in self.works:
            raise DockerfileError(complaint)
        return self.works[source].tree

    def step(self, work: Work, text: str, variables: Mapping[str, str] | None = None) -> str:
        """The name of the stage's next vertex."""
        work.step += 1
        return self.step_again(work, text, variables)

    def step_again(self, work: Work, text: str, variables: Mapping[str, str] | None = None) -> str:
        """Another vertex of the same step."""
        return step_name(
            work.node,
            work.step,
            text,
            work.platform if self.options.multi_platform else None,
            work.env if variables is None else variables,
            onbuild=work.onbuild,
        )

    def style(
        self,
        work: Work,
        instruction: Instruction,
        name: str,
        *,
        cached: bool = True,
        command: str | None = None,
        group: ProgressGroup | None = None,
    ) -> Style:
        """How a vertex of an instruction is described. ``cached`` ones obey ``--no-cache``."""
        metadata = named(name, ignore_cache=cached and work.node.ignore_cache, command=command)
        return Style(
            platform=work.platform,
            metadata=metadata.merged(Metadata(progress_group=group)) if group else metadata,
            locations=location(self.file, instruction.lines),
        )

    def shown(self, work: Work, instruction: Instruction) -> str:
        """An instruction as it is shown."""
        return shown_command(instruction.code, self.lexer, work.env)

    def spend_on_copy(self, work: Work) -> None:
        """Account for a copy of a stage's variables, labels and history. Raises `DockerfileError`; see `Allowance`."""
        entries = len(work.env) + len(work.arguments) + work.draft.entries
        self.lexer.allowance.spend(entries * _ENTRY)

    def record(self, work: Work, text: str, *, layer: bool = False) -> None:
        """Add an instruction to the image's history."""
        self.lexer.allowance.spend(len(text))
        work.draft.record(text, layer=layer, epoch=self.options.created)


def new_group(name: str, *, weak: bool, id: str = "") -> ProgressGroup:
    """Vertices that are shown as one."""
    return ProgressGroup(id=id or uuid4().hex, name=name, weak=weak)
