"""A Dockerfile as the legacy builder takes it: every stage up to the target, instruction by instruction."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from lading.builder.errors import VertexError
from lading.builder.frontend.image import Draft
from lading.builder.frontend.state import Planned, StageNode, Work
from lading.errors import InvalidArgumentError, LadingError
from lading.formats.dockerfile import instructions as ins
from lading.formats.llb.make import Edge
from lading.oci.digest import Digest

_NOTHING: Final = re.compile(r"'/.*[*?\[].*': not found")
"""What `builder.ops.files.actions` says of a wildcard that fits nothing."""
_MISSING: Final = re.compile(r'failed to calculate checksum of ref: "/(.*)": not found')
_REFUSED: Final = "failed to create task for container: OCI runtime create failed: runc create failed: "
REFUSED: Final = "runc run failed: "
"""With which the runtime begins to say why it could not start a process."""


@dataclass(slots=True, kw_only=True)
class Step:
    """An instruction after it was carried out: what it was, and what it left. ``command`` is ``None`` for a FROM."""

    node: StageNode
    command: ins.Command | None
    tree: Edge | None
    draft: Draft
    onbuild: bool = False
    shown: str = ""


def up_to(dockerfile: ins.Dockerfile, target: str) -> ins.Dockerfile:
    """The file up to the target: every stage before it is built."""
    stages = dockerfile.stages
    for number, stage in enumerate(stages if target else ()):
        if stage.head.stage == target.lower() or str(number) == target:
            stages = stages[: number + 1]
            break
    else:
        if target:
            raise InvalidArgumentError(f'target stage "{target}" could not be found', subject=target)
    return ins.Dockerfile(arguments=dockerfile.arguments, stages=stages, escape=dockerfile.escape)


def labelled(dockerfile: ins.Dockerfile, labels: Mapping[str, str]) -> ins.Dockerfile:
    """The file with the labels that were given, as one more instruction."""
    if not labels or not dockerfile.stages:
        return dockerfile
    *others, last = dockerfile.stages
    words = " ".join(f"{key}={value}" for key, value in sorted(labels.items()))
    label = ins.Label(
        name="LABEL",
        code=f"LABEL {words}",
        lines=last.head.lines,
        pairs=tuple(
            ins.Pair(key=_quoted(key), value=_quoted(value)) for key, value in sorted(labels.items())
        ),
    )
    stages = (*others, ins.Stage(head=last.head, commands=(*last.commands, label)))
    return ins.Dockerfile(arguments=dockerfile.arguments, stages=stages, escape=dockerfile.escape)


def _quoted(text: str) -> str:
    """A word that a Dockerfile reads as this text."""
    return f"'{text}'" if text else text


def step_of(work: Work, planned: Planned | None) -> Step:
    """What an instruction left; ``None`` is the FROM of its stage."""
    head = work.node.head
    code = (head.code if head else "") if planned is None else planned.command.code
    return Step(
        node=work.node,
        command=None if planned is None else planned.command,
        tree=work.tree,
        draft=work.draft.copy(),
        onbuild=planned is not None and planned.onbuild,
        shown=code,
    )


def key_of(before: Digest, step: Step) -> Digest:
    """What an instruction is known by: the image before it, and what it makes of its config."""
    return Digest.of(before.encode() + b"\0" + step.draft.encoded())


def failed(step: Step, error: VertexError) -> LadingError:
    """What went wrong with a process or a copy, in the old builder's words."""
    if isinstance(step.command, (ins.Copy, ins.Add)):
        message = _copy_failed(step.command, error.message)
    elif error.exit_code is not None and isinstance(step.command, ins.Run):
        message = _process_failed(step, step.command, error.exit_code)
    elif error.message.startswith(REFUSED):
        message = f"{_REFUSED}{error.message.removeprefix(REFUSED)}"
    else:
        return error
    return VertexError(message, vertex=error.vertex, exit_code=error.exit_code)


def _process_failed(step: Step, run: ins.Run, status: int) -> str:
    args = run.command.args
    shown = " ".join([*(step.draft.shell or ("/bin/sh", "-c")), *args] if run.command.shell else args)
    return f"The command '{shown}' returned a non-zero code: {status}"


def _copy_failed(command: ins.Copy | ins.Add, message: str) -> str:
    if _NOTHING.fullmatch(message):
        return f"{command.keyword} failed: no source files were specified"
    missing = _MISSING.search(message)
    if missing is None:
        return f"{command.keyword} failed: {message}"
    problem = f"stat {missing[1]}: file does not exist"
    if isinstance(command, ins.Copy) and command.origin:
        return f"{command.keyword} failed: {problem}"
    return (
        f"{command.keyword} failed: file not found in build context or excluded by .dockerignore: {problem}"
    )
