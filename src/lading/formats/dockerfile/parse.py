"""Logical lines to instructions and stages."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from lading.formats.dockerfile import instructions as ins
from lading.formats.dockerfile import rules, values
from lading.formats.dockerfile.errors import DockerfileError, Lines
from lading.formats.dockerfile.flags import Flags, Kind, parse_flags
from lading.formats.dockerfile.lines import (
    INSTRUCTIONS,
    Heredoc,
    Node,
    Parsed,
    parse_heredoc,
    parse_lines,
)
from lading.formats.dockerfile.mounts import check_mount, parse_device
from lading.formats.dockerfile.suggest import suggested

_STAGE: Final = re.compile(r"[a-z][a-z0-9\-_.]*")
_ONBUILD: Final = re.compile(r"\s*ONBUILD\s*", re.IGNORECASE)
_MILLISECOND: Final = 1_000_000


def parse(data: bytes, report: rules.Report = rules.ignore) -> ins.Dockerfile:
    """Read a Dockerfile; ``report`` hears of what the checks find.

    Raises `DockerfileError` with the lines at fault.
    """
    parsed = parse_lines(data)
    for lines in parsed.empty_continuations:
        report(rules.NO_EMPTY_CONTINUATION, "Empty continuation line", lines)
    return _stages(parsed, report)


def _stages(parsed: Parsed, report: rules.Report) -> ins.Dockerfile:
    arguments: list[ins.Arg] = []
    heads: list[ins.From] = []
    bodies: list[list[ins.Command]] = []
    for node in parsed.nodes:
        try:
            instruction = parse_instruction(node, report)
        except DockerfileError as exc:
            message = f"dockerfile parse error on line {node.lines.start}: {exc.message}"
            raise DockerfileError(message, lines=exc.lines or node.lines) from exc
        if isinstance(instruction, ins.From):
            heads.append(instruction)
            bodies.append([])
        elif heads:
            bodies[-1].append(instruction)
        elif isinstance(instruction, ins.Arg):
            arguments.append(instruction)
        else:
            raise DockerfileError("no build stage in current context", lines=node.lines)
    stages = tuple(
        ins.Stage(head=head, commands=tuple(body)) for head, body in zip(heads, bodies, strict=True)
    )
    return ins.Dockerfile(arguments=tuple(arguments), stages=stages, escape=parsed.escape)


def parse_instruction(node: Node, report: rules.Report = rules.ignore) -> ins.From | ins.Command:
    """Raises `DockerfileError`."""
    parser = _PARSERS.get(node.keyword)
    if parser is None:
        raise DockerfileError(
            suggested(f"unknown instruction: {node.name}", node.name, INSTRUCTIONS, case=False),
            lines=node.lines,
        )
    try:
        return parser(node, report)
    except DockerfileError as exc:
        raise exc.at(node.lines) from exc


def parse_trigger(text: str, lines: Lines) -> ins.Command:
    """One instruction of a stage on its own, as an ONBUILD trigger holds it; it stands at ``lines``. Raises `DockerfileError`."""
    try:
        parsed = parse_lines(text.encode("utf-8", "surrogateescape"))
    except DockerfileError as exc:
        raise DockerfileError(exc.message, lines=lines) from exc
    if len(parsed.nodes) != 1:
        raise DockerfileError("onbuild trigger should be a single expression", lines=lines)
    instruction = parse_instruction(replace(parsed.nodes[0], lines=lines))
    if isinstance(instruction, ins.From):
        raise DockerfileError("FROM is not a command type", lines=lines)
    return instruction


# One function per instruction.

_Parser = Callable[[Node, rules.Report], ins.From | ins.Command]


def _flags(node: Node, **known: Kind) -> Flags:
    return parse_flags(node.flags, {name.replace("_", "-"): kind for name, kind in known.items()})


def _code(node: Node) -> str:
    return node.original.strip()


def _at_least_one(node: Node) -> None:
    if not node.args:
        raise DockerfileError(f"{node.keyword} requires at least one argument")


def _exactly_one(node: Node) -> str:
    if len(node.args) != 1:
        raise DockerfileError(f"{node.keyword} requires exactly one argument")
    return node.args[0]


def _comment(node: Node, name: str) -> str:
    """What a comment says of ``name``: ``# name words``."""
    for line in node.comments if name else ():
        if line.startswith(f"{name} "):
            return line[len(name) + 1 :]
    return ""


def _check_description(node: Node, names: Sequence[str], report: rules.Report) -> None:
    if not node.comments or not names or node.comments[-1].partition(" ")[0] in names:
        return
    example = names[0] if len(names) == 1 else "<arg_key>"
    message = f"Comment for {node.keyword} should follow the format: `# {example} <description>`"
    report(rules.INVALID_DEFINITION_DESCRIPTION, message, node.lines)


def _from(node: Node, report: rules.Report) -> ins.From:
    args = node.args
    if len(args) == 3 and args[2] != args[2].lower():
        report(rules.STAGE_NAME_CASING, f"Stage name '{args[2]}' should be lowercase", node.lines)
    if len(args) >= 3 and _in_one_case(node.name) and not _same_case(node.name, args[1]):
        message = f"'{args[1]}' and '{node.name}' keywords' casing do not match"
        report(rules.FROM_AS_CASING, message, node.lines)
    stage = _stage_name(args)
    flags = _flags(node, platform=Kind.TEXT)
    if stage:
        _check_description(node, [stage], report)
    return ins.From(
        name=node.name,
        code=_code(node),
        lines=node.lines,
        base=node.args[0],
        stage=stage,
        platform=flags.text("platform"),
        comment=_comment(node, stage),
    )


def _in_one_case(word: str) -> bool:
    return word in (word.lower(), word.upper())


def _same_case(model: str, word: str) -> bool:
    return word == (word.lower() if model == model.lower() else word.upper())


def _stage_name(args: Sequence[str]) -> str:
    if len(args) == 1:
        return ""
    if len(args) != 3 or args[1].lower() != "as":
        raise DockerfileError("FROM requires either one or three arguments")
    name = args[2].lower()
    if not _STAGE.fullmatch(name):
        raise DockerfileError(
            f'invalid name for build stage: "{args[2]}", name can\'t start with a number or contain symbols'
        )
    return name


def _arg(node: Node, report: rules.Report) -> ins.Arg:
    _at_least_one(node)
    found: list[ins.Argument] = []
    for word in node.args:
        key, equals, value = word.partition("=")
        if equals and not key:
            raise DockerfileError("ARG names can not be blank")
        found.append(ins.Argument(key, value if equals else None, _comment(node, key)))
    _check_description(node, [one.key for one in found], report)
    return ins.Arg(name=node.name, code=_code(node), lines=node.lines, args=tuple(found))


def _pairs(node: Node) -> tuple[ins.Pair, ...]:
    _flags(node)
    _at_least_one(node)
    thirds = zip(node.args[::3], node.args[1::3], node.args[2::3], strict=True)
    pairs = [ins.Pair(key, value, not equals) for key, value, equals in thirds]
    if not all(pair.key for pair in pairs):
        raise DockerfileError(f"{node.keyword} names can not be blank")
    return tuple(pairs)


def _env(node: Node, _report: rules.Report) -> ins.Env:
    return ins.Env(name=node.name, code=_code(node), lines=node.lines, pairs=_pairs(node))


def _label(node: Node, _report: rules.Report) -> ins.Label:
    return ins.Label(name=node.name, code=_code(node), lines=node.lines, pairs=_pairs(node))


def _maintainer(node: Node, report: rules.Report) -> ins.Maintainer:
    message = "Maintainer instruction is deprecated in favor of using label"
    report(rules.MAINTAINER_DEPRECATED, message, node.lines)
    value = _exactly_one(node)
    _flags(node)
    return ins.Maintainer(name=node.name, code=_code(node), lines=node.lines, value=value)


def _transfer(node: Node) -> tuple[tuple[str, ...], tuple[Heredoc, ...], str]:
    *sources, dest = node.args
    if parse_heredoc(dest) is not None:
        raise DockerfileError(f"{node.keyword} cannot accept a heredoc as a destination")
    filled = {heredoc.name: heredoc for heredoc in node.heredocs}
    paths: list[str] = []
    files: list[Heredoc] = []
    for source in sources:
        heredoc = parse_heredoc(source)
        if heredoc is None:
            paths.append(source)
        else:
            files.append(filled.get(heredoc.name, heredoc))
    return tuple(paths), tuple(files), dest


def _check_transfer(node: Node) -> None:
    if len(node.args) < 2:
        raise DockerfileError(
            f"{node.keyword} requires at least two arguments, but only one was provided. "
            "Destination could not be determined"
        )


def _add(node: Node, _report: rules.Report) -> ins.Add:
    _check_transfer(node)
    flags = _flags(
        node,
        chown=Kind.TEXT,
        chmod=Kind.TEXT,
        link=Kind.TRUTH,
        keep_git_dir=Kind.TRUTH,
        checksum=Kind.TEXT,
        unpack=Kind.TRUTH,
        exclude=Kind.MANY,
    )
    sources, files, dest = _transfer(node)
    return ins.Add(
        name=node.name,
        code=_code(node),
        lines=node.lines,
        sources=sources,
        files=files,
        dest=dest,
        chown=flags.text("chown"),
        chmod=flags.text("chmod"),
        link=bool(flags.truth("link")),
        exclude=flags.many("exclude"),
        checksum=flags.text("checksum"),
        keep_git_dir=flags.truth("keep-git-dir"),
        unpack=flags.truth("unpack"),
    )


def _copy(node: Node, _report: rules.Report) -> ins.Copy:
    _check_transfer(node)
    known = {"from": Kind.TEXT, "parents": Kind.TRUTH}
    flags = _flags(node, chown=Kind.TEXT, chmod=Kind.TEXT, link=Kind.TRUTH, exclude=Kind.MANY, **known)
    sources, files, dest = _transfer(node)
    return ins.Copy(
        name=node.name,
        code=_code(node),
        lines=node.lines,
        sources=sources,
        files=files,
        dest=dest,
        chown=flags.text("chown"),
        chmod=flags.text("chmod"),
        link=bool(flags.truth("link")),
        exclude=flags.many("exclude"),
        origin=flags.text("from"),
        parents=bool(flags.truth("parents")),
    )


def _command_line(node: Node) -> ins.CommandLine:
    return ins.CommandLine(args=node.args, shell=not node.json, files=node.heredocs)


def _run(node: Node, _report: rules.Report) -> ins.Run:
    flags = _flags(node, mount=Kind.MANY, network=Kind.TEXT, security=Kind.TEXT, device=Kind.MANY)
    network, security = flags.text("network", "default"), flags.text("security", "sandbox")
    for mount in flags.many("mount"):
        check_mount(mount)
    if network not in ("default", "none", "host"):
        raise DockerfileError(f'invalid network mode "{network}"')
    if security not in ("sandbox", "insecure"):
        raise DockerfileError(f'security "{security}" is not valid')
    for device in flags.many("device"):
        parse_device(device)
    return ins.Run(
        name=node.name,
        code=_code(node),
        lines=node.lines,
        command=_command_line(node),
        mounts=flags.many("mount"),
        network=network,
        security=security,
        devices=flags.many("device"),
        flags=tuple(flags.values),
    )


def _cmd(node: Node, _report: rules.Report) -> ins.Cmd:
    _flags(node)
    return ins.Cmd(name=node.name, code=_code(node), lines=node.lines, command=_command_line(node))


def _entrypoint(node: Node, _report: rules.Report) -> ins.Entrypoint:
    _flags(node)
    return ins.Entrypoint(name=node.name, code=_code(node), lines=node.lines, command=_command_line(node))


def _shell(node: Node, _report: rules.Report) -> ins.Shell:
    _flags(node)
    _at_least_one(node)
    if not node.json:
        raise DockerfileError("SHELL requires the arguments to be in JSON form")
    return ins.Shell(name=node.name, code=_code(node), lines=node.lines, shell=node.args)


def _healthcheck(node: Node, _report: rules.Report) -> ins.Healthcheck:
    _at_least_one(node)
    kind, *args = node.args
    if kind.upper() == "NONE":
        if args:
            raise DockerfileError("HEALTHCHECK NONE takes no arguments")
        return ins.Healthcheck(name=node.name, code=_code(node), lines=node.lines, test=("NONE",))
    names = ("interval", "timeout", "start-period", "start-interval", "retries")
    flags = parse_flags(node.flags, dict.fromkeys(names, Kind.TEXT))
    if kind.upper() != "CMD":
        raise DockerfileError(f'Unknown type "{kind.upper()}" in HEALTHCHECK (try CMD)')
    if not args:
        raise DockerfileError("Missing command after HEALTHCHECK CMD")
    interval, timeout, start_period, start_interval = (_interval(flags, name) for name in names[:4])
    return ins.Healthcheck(
        name=node.name,
        code=_code(node),
        lines=node.lines,
        test=("CMD" if node.json else "CMD-SHELL", *args),
        interval=interval,
        timeout=timeout,
        start_period=start_period,
        start_interval=start_interval,
        retries=_retries(flags.text("retries")),
    )


def _interval(flags: Flags, name: str) -> int:
    text = flags.text(name)
    found = values.duration(text) if text else 0
    if found and found < _MILLISECOND:
        raise DockerfileError(f'Interval "{name}" cannot be less than 1ms')
    return found


def _retries(text: str) -> int:
    if not text:
        return 0
    if text.startswith("-") and values.number(text[1:], bits=31) is not None:
        raise DockerfileError(f"--retries cannot be negative ({int(text)})")
    found = values.number(text, bits=31)
    if found is None:
        raise DockerfileError(f'strconv.ParseInt: parsing "{text}": invalid syntax')
    return found


def _expose(node: Node, _report: rules.Report) -> ins.Expose:
    _at_least_one(node)
    _flags(node)
    return ins.Expose(name=node.name, code=_code(node), lines=node.lines, ports=tuple(sorted(node.args)))


def _volume(node: Node, _report: rules.Report) -> ins.Volume:
    _at_least_one(node)
    _flags(node)
    volumes = tuple(arg.strip() for arg in node.args)
    if not all(volumes):
        raise DockerfileError("VOLUME specified can not be an empty string")
    return ins.Volume(name=node.name, code=_code(node), lines=node.lines, volumes=volumes)


def _user(node: Node, _report: rules.Report) -> ins.User:
    value = _exactly_one(node)
    _flags(node)
    return ins.User(name=node.name, code=_code(node), lines=node.lines, value=value)


def _workdir(node: Node, _report: rules.Report) -> ins.Workdir:
    value = _exactly_one(node)
    _flags(node)
    return ins.Workdir(name=node.name, code=_code(node), lines=node.lines, value=value)


def _stop_signal(node: Node, _report: rules.Report) -> ins.StopSignal:
    return ins.StopSignal(name=node.name, code=_code(node), lines=node.lines, value=_exactly_one(node))


def _onbuild(node: Node, _report: rules.Report) -> ins.Onbuild:
    _at_least_one(node)
    _flags(node)
    trigger = node.args[0].strip().upper()
    if trigger == "ONBUILD":
        raise DockerfileError("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if trigger in ("MAINTAINER", "FROM"):
        raise DockerfileError(f"{trigger} isn't allowed as an ONBUILD trigger")
    expression = _ONBUILD.sub("", node.original, count=1)
    for heredoc in node.heredocs:
        expression += f"\n{heredoc.content}{heredoc.name}"
    return ins.Onbuild(name=node.name, code=_code(node), lines=node.lines, expression=expression)


_PARSERS: Final[dict[str, _Parser]] = {
    "ADD": _add,
    "ARG": _arg,
    "CMD": _cmd,
    "COPY": _copy,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "FROM": _from,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "MAINTAINER": _maintainer,
    "ONBUILD": _onbuild,
    "RUN": _run,
    "SHELL": _shell,
    "STOPSIGNAL": _stop_signal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
