"""Questions about a Dockerfile instead of a build: what it takes, which targets it has, what the checks say.

The answers have BuildKit's JSON and its text; clients print the text, or the JSON with their own sources.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Final

from lading.builder.frontend.contexts import Entrypoint
from lading.builder.frontend.convert import Converted
from lading.builder.frontend.state import Wanted, Work, ranges, reachable
from lading.builder.results import Result
from lading.formats.dockerfile import instructions as ins
from lading.formats.dockerfile.errors import DockerfileError, Lines
from lading.formats.dockerfile.rules import Finding
from lading.formats.llb.definition import Definition
from lading.formats.llb.metadata import SourceFile, decode_metadata
from lading.oci.digest import Digest

OUTLINE: Final = "frontend.outline"
TARGETS: Final = "frontend.targets"
LINT: Final = "frontend.lint"
DESCRIBE: Final = "frontend.subrequests.describe"
_VERSION: Final = "1.0.0"
_DESCRIPTIONS: Final = {
    OUTLINE: "List all parameters current build target supports",
    TARGETS: "List all targets current build supports",
    LINT: "Lint a Dockerfile",
    DESCRIBE: "List available subrequest types",
}
_METADATA: Final = {LINT: ("result.json", "result.txt", "result.statuscode")}

Json = dict[str, object]


def _answer(document: object, text: str, **more: str) -> Result:
    metadata = {
        "result.json": json.dumps(document, indent=2, ensure_ascii=False).encode("utf-8", "surrogateescape"),
        "result.txt": text.encode("utf-8", "surrogateescape"),
        "version": _VERSION.encode(),
        **{key.replace("_", "."): value.encode() for key, value in more.items()},
    }
    return Result(refs={"": None}, metadata=metadata)


def _location(lines: Lines) -> Json:
    return {"ranges": [{"start": {"line": one.start}, "end": {"line": one.end}} for one in ranges(lines)]}


def _filled(document: Mapping[str, object]) -> Json:
    """Without what is empty, as Go leaves it out."""
    return {key: value for key, value in document.items() if value}


def _data(file: SourceFile) -> str:
    return base64.b64encode(file.data).decode()


def table(rows: Sequence[Sequence[str]], padding: int) -> str:
    """Rows in columns, each as wide as it must be (Go's ``tabwriter``); the last one is not filled up."""
    widths = [max(len(row[column]) for row in rows) + padding for column in range(len(rows[0]) - 1)]
    lines = [
        "".join(cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=True)) + row[-1]
        for row in rows
    ]
    return "".join(f"{line}\n" for line in lines)


def describe() -> Result:
    """Which questions there are."""
    requests = [
        {
            "name": name,
            "version": _VERSION,
            "type": "rpc",
            "description": _DESCRIPTIONS[name],
            "opts": [{"name": "target", "description": "Target build stage"}] if name == OUTLINE else [],
            "metadata": [{"name": one} for one in _METADATA.get(name, ("result.json", "result.txt"))],
        }
        for name in (OUTLINE, TARGETS, LINT, DESCRIBE)
    ]
    rows = [
        ["NAME", "VERSION", "DESCRIPTION"],
        *([name, _VERSION, text] for name, text in _DESCRIPTIONS.items()),
    ]
    return _answer(requests, table(rows, 3))


# Targets.


def targets(dockerfile: ins.Dockerfile, file: SourceFile) -> Result:
    """The stages."""
    heads = [stage.head for stage in dockerfile.stages]
    listed = [
        _filled(
            {
                "name": head.stage,
                "default": number == len(heads) - 1,
                "description": head.comment,
                "base": head.base,
                "platform": head.platform,
                "location": _location(head.lines),
            }
        )
        for number, head in enumerate(heads)
    ]
    rows = [["TARGET", "DESCRIPTION"]]
    for number, head in enumerate(heads):
        default = "(default)" if number == len(heads) - 1 else ""
        rows.append([" ".join(filter(None, (head.stage, default))), head.comment])
    return _answer({"targets": listed, "sources": [_data(file)]}, table(rows, 1))


# Outline.


def outline(converted: Converted, file: SourceFile) -> Result:
    """The arguments, secrets and agents that the target uses."""
    head = converted.target.node.head
    name, comment = (head.stage, head.comment) if head is not None else ("", "")
    works = [converted.works[node] for node in reachable(converted.target.node) if node in converted.works]
    arguments = _arguments(converted, works)
    secrets = _wanted({key: one for work in reversed(works) for key, one in work.secrets.items()})
    agents = _wanted({key: one for work in reversed(works) for key, one in work.agents.items()})
    document = {
        "name": name,
        "description": comment,
        "args": arguments,
        "secrets": secrets,
        "ssh": agents,
        "sources": [_data(file)],
    }
    return _answer(_filled(document), _outline_text(name, comment, arguments, secrets, agents))


def _arguments(converted: Converted, works: Sequence[Work]) -> list[Json]:
    found: dict[str, tuple[int, Json]] = {}
    for work in works:
        definitions = {**converted.globals.definitions, **work.definitions}
        used = list(work.node.used_arguments)
        while used:
            key = used.pop()
            definition = definitions.get(key)
            if definition is None or key in found:
                continue
            used.extend(definition.uses)
            shown = _filled(
                {
                    "name": definition.argument.key,
                    "description": definition.argument.comment,
                    "value": definition.value,
                    "location": _location(definition.lines),
                }
            )
            found[key] = (definition.lines.start, shown)
    return [shown for _, shown in sorted(found.values(), key=lambda pair: pair[0])]


def _wanted(found: Mapping[str, Wanted]) -> list[Json]:
    wanted = sorted(found.items(), key=lambda pair: pair[1].lines.start)
    return [
        _filled({"name": key, "required": one.required, "location": _location(one.lines)})
        for key, one in wanted
    ]


def _outline_text(
    name: str, comment: str, arguments: Sequence[Json], secrets: Sequence[Json], agents: Sequence[Json]
) -> str:
    text = ""
    if name or comment:
        rows = [["TARGET:", name or "(default)"], *([["DESCRIPTION:", comment]] if comment else [])]
        text += table(rows, 1) + "\n"
    if arguments:
        rows = [["BUILD ARG", "VALUE", "DESCRIPTION"]]
        rows += [[str(one.get(key, "")) for key in ("name", "value", "description")] for one in arguments]
        text += table(rows, 3) + "\n"
    for title, wanted in (("SECRET", secrets), ("SSH", agents)):
        if wanted:
            rows = [[title, "REQUIRED"]]
            rows += [[str(one["name"]), "true" if one.get("required") else ""] for one in wanted]
            text += table(rows, 3) + "\n"
    return text


# Lint.


def lint(findings: Sequence[Finding], entrypoint: Entrypoint, error: DockerfileError | None) -> Result:
    """What the checks found, and what kept the Dockerfile from being built."""
    file = entrypoint.file
    warnings = [
        {
            **_filled(
                {
                    "ruleName": one.rule.name,
                    "description": one.rule.description,
                    "url": one.rule.url,
                    "detail": one.message,
                }
            ),
            "location": _location(one.lines),
        }
        for one in findings
    ]
    source = {
        "filename": file.filename,
        "data": _data(file),
        "definition": _definition(entrypoint.definition),
        "language": file.language,
    }
    document: Json = {"warnings": warnings or None, "sources": [source]}
    if error is not None:
        place = _location(error.lines) if error.lines else {}
        document["buildError"] = {"message": error.message, "location": place}
    ordered = sorted(findings, key=lambda one: one.lines.start)
    text = "".join(_warning_text(one, file) for one in ordered)
    return _answer(document, text, result_statuscode="1" if findings or error else "0")


def _definition(definition: Definition) -> Json:
    """A graph as BuildKit's Go types are in JSON. Where its operations stand is not known: it is what the file comes from."""
    described: Json = {}
    for digest, raw in sorted(definition.metadata.items()):
        metadata = decode_metadata(raw)
        described[digest] = _filled(
            {
                "ignore_cache": metadata.ignore_cache,
                "description": dict(metadata.description),
                "caps": dict.fromkeys(sorted(metadata.caps), True),
            }
        )
    return {
        "def": [base64.b64encode(raw).decode() for raw in definition.ops],
        "metadata": described,
        "Source": {"locations": {Digest.of(raw): {} for raw in definition.ops[:-1]}},
    }


def _warning_text(finding: Finding, file: SourceFile) -> str:
    url = f" - {finding.rule.url}" if finding.rule.url else ""
    return f"\nWARNING: {finding.rule.name}{url}\n{finding.message}\n{excerpt(file, finding.lines)}"


def excerpt(file: SourceFile, lines: Lines) -> str:
    """The lines with some around them, marked, as BuildKit prints them."""
    text = file.data.decode("utf-8", "surrogateescape").split("\n")
    start, end = lines.start, min(lines.end, len(text))
    if not 1 <= start <= len(text):
        return ""
    first, last = _padded(start, end, len(text))
    shown = "".join(
        f" {number:3d} | {'>>>' if lines.start <= number <= lines.end else '   '} {text[number - 1]}\n"
        for number in range(first, last + 1)
    )
    rule = "--------------------\n"
    return f"{file.filename}:{start}\n{rule}{shown}{rule}"


def _padded(start: int, end: int, count: int) -> tuple[int, int]:
    """Some lines more: four rounds for one line, two for several, each counting once for itself and once for each line."""
    wanted = 4 if start == end else 2
    added = 0
    while added < wanted:
        if start > 1:
            start -= 1
            added += 1
        if end != count:
            end += 1
            added += 1
        added += 1
    return start, end
