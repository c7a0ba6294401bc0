"""Instructions that change the image's config, one function each; and the way to those that change its files."""

from collections.abc import Callable
from typing import Any, Final, cast

from lading.builder.frontend import checks, wording
from lading.builder.frontend.arguments import Definition
from lading.builder.frontend.copying import add, copy
from lading.builder.frontend.running import run
from lading.builder.frontend.scope import Scope
from lading.builder.frontend.shells import owner, with_shell
from lading.builder.frontend.state import Planned, Work
from lading.containers import signals
from lading.errors import InvalidArgumentError
from lading.formats.dockerfile import instructions as ins
from lading.formats.dockerfile import rules
from lading.formats.dockerfile.errors import DockerfileError
from lading.formats.dockerfile.patterns import clean
from lading.formats.dockerfile.ports import parse_ports
from lading.formats.llb import make, ops
from lading.oci.config import Healthcheck


def dispatch(work: Work, planned: Planned, scope: Scope) -> None:
    """Carry out one instruction. Raises `DockerfileError` with its lines."""
    work.onbuild = planned.onbuild
    try:
        if isinstance(planned.command, ins.Run):
            run(work, planned.command, planned.sources, scope)
        elif isinstance(planned.command, ins.Copy):
            copy(work, planned.command, planned.sources, scope)
        else:
            handler = _HANDLERS[type(planned.command)]
            handler(work, planned.command, scope)
    except DockerfileError as exc:
        raise exc.at(planned.command.lines) from exc


def _expander(work: Work, command: ins.Instruction, scope: Scope) -> ins.Expander:
    return lambda word: scope.expand(work, word, command.lines)


def _legacy(command: ins.Env | ins.Label, scope: Scope) -> None:
    for pair in command.pairs:
        if pair.old:
            name = command.name
            message = f'"{name} key=value" should be used instead of legacy "{name} key value" format'
            scope.report(rules.LEGACY_KEY_VALUE_FORMAT, message, command.lines)


def _env(work: Work, command: ins.Env, scope: Scope) -> None:
    command = command.expanded(_expander(work, command, scope))
    _legacy(command, scope)
    for pair in command.pairs:
        checks.check_secret("ENV", pair.key, command.lines, scope.report)
        work.set_variable(pair.key, pair.value)
        work.draft.env[pair.key] = pair.value
    scope.record(work, f"ENV {' '.join(map(str, command.pairs))}")


def _label(work: Work, command: ins.Label, scope: Scope) -> None:
    command = command.expanded(_expander(work, command, scope))
    _legacy(command, scope)
    for pair in command.pairs:
        work.draft.labels[pair.key] = pair.value
    scope.record(work, f"LABEL {' '.join(map(str, command.pairs))}")


def _arg(work: Work, command: ins.Arg, scope: Scope) -> None:
    told: list[str] = []
    for argument in command.args:
        checks.check_secret("ARG", argument.key, command.lines, scope.report)
        value, inherited = _argument_value(work, command, argument, scope)
        if value is not None and argument.key not in checks.NOT_VARIABLES:
            work.set_variable(argument.key, value)
        if not inherited:
            work.definitions[argument.key] = Definition(
                argument=argument, value=value or "", lines=command.lines
            )
        work.node.used_arguments.add(argument.key)
        work.arguments.append(ins.Argument(argument.key, value, argument.comment))
        told.append(argument.key if value is None else f"{argument.key}={value}")
    scope.record(work, f"ARG {' '.join(told)}")


def _argument_value(
    work: Work, command: ins.Arg, argument: ins.Argument, scope: Scope
) -> tuple[str | None, bool]:
    """What the client gave, or the default, or the value from before the first FROM; and whether it is that last one."""
    given = scope.options.build_args.get(argument.key)
    if given is not None:
        return given, False
    if argument.value is not None:
        return scope.expand(work, argument.value, command.lines), False
    inherited = scope.globals.variables.get(argument.key)
    return inherited, inherited is not None


def _once(work: Work, command: ins.Instruction, scope: Scope) -> None:
    """An instruction of which only the last counts: the one before is remarked."""
    before = work.single.get(command.keyword)
    if before is not None:
        message = (
            f"Multiple {command.name} instructions should not be used in the same stage "
            "because only the last one will be used"
        )
        scope.report(rules.MULTIPLE_INSTRUCTIONS_DISALLOWED, message, before)
    work.single[command.keyword] = command.lines


def _shell_form(work: Work, command: ins.Cmd | ins.Entrypoint, scope: Scope) -> tuple[str, ...]:
    line = command.command
    if not line.shell:
        return line.args
    if not work.draft.shell:
        message = (
            f"JSON arguments recommended for {command.name} "
            "to prevent unintended behavior related to OS signals"
        )
        scope.report(rules.JSON_ARGS_RECOMMENDED, message, command.lines)
    return with_shell(work.draft, line.args)


def _cmd(work: Work, command: ins.Cmd, scope: Scope) -> None:
    _once(work, command, scope)
    work.draft.cmd = _shell_form(work, command, scope)
    work.draft.args_escaped = True
    scope.record(work, f"CMD {wording.quoted_list(work.draft.cmd)}")


def _entrypoint(work: Work, command: ins.Entrypoint, scope: Scope) -> None:
    _once(work, command, scope)
    work.draft.entrypoint = _shell_form(work, command, scope)
    if "CMD" not in work.single:
        work.draft.cmd = ()
    scope.record(work, f"ENTRYPOINT {wording.quoted_list(work.draft.entrypoint)}")


def _healthcheck(work: Work, command: ins.Healthcheck, scope: Scope) -> None:
    _once(work, command, scope)
    durations = (command.interval, command.timeout, command.start_period, command.start_interval)
    work.draft.healthcheck = Healthcheck(
        test=command.test,
        interval=command.interval,
        timeout=command.timeout,
        start_period=command.start_period,
        start_interval=command.start_interval,
        retries=command.retries,
    )
    told = " ".join(wording.quoted(wording.duration(one)) for one in durations)
    test, retries = wording.quoted_list(command.test), wording.quoted_number(command.retries)
    scope.record(work, f"HEALTHCHECK &{{{test} {told} {retries}}}")


def _expose(work: Work, command: ins.Expose, scope: Scope) -> None:
    words = [word for port in command.ports for word in scope.lexer.expand(port, work.env).words]
    ports = parse_ports(words, command.lines, scope.report)
    work.draft.exposed_ports = (*work.draft.exposed_ports, *ports)
    scope.record(work, f"EXPOSE {wording.plain_list(ports)}")


def _user(work: Work, command: ins.User, scope: Scope) -> None:
    work.user = work.draft.user = scope.expand(work, command.value, command.lines)
    scope.record(work, f"USER {work.user}")


def _volume(work: Work, command: ins.Volume, scope: Scope) -> None:
    volumes = command.expanded(_expander(work, command, scope)).volumes
    if not all(volumes):
        raise DockerfileError("VOLUME specified can not be an empty string")
    work.draft.volumes = (*work.draft.volumes, *volumes)
    scope.record(work, f"VOLUME {wording.plain_list(volumes)}")


def _stop_signal(work: Work, command: ins.StopSignal, scope: Scope) -> None:
    signal = scope.expand(work, command.value, command.lines)
    try:
        signals.parse_stop(signal)
    except InvalidArgumentError as exc:
        raise DockerfileError(exc.message) from exc
    work.draft.stop_signal = signal
    scope.record(work, f"STOPSIGNAL {signal}")


def _shell(work: Work, command: ins.Shell, scope: Scope) -> None:
    work.draft.shell = command.shell
    scope.record(work, f"SHELL {wording.plain_list(command.shell)}")


def _maintainer(work: Work, command: ins.Maintainer, scope: Scope) -> None:
    work.draft.author = command.value
    scope.record(work, f"MAINTAINER {command.value}")


def _onbuild(work: Work, command: ins.Onbuild, _scope: Scope) -> None:
    work.draft.on_build = (*work.draft.on_build, command.expression)


def _workdir(work: Work, command: ins.Workdir, scope: Scope) -> None:
    path = scope.expand(work, command.value, command.lines)
    if not work.workdir_set and not path.startswith("/"):
        message = (
            f"Relative workdir {wording.quoted(path)} can have unexpected results if the base image changes"
        )
        scope.report(rules.WORKDIR_RELATIVE_PATH, message, command.lines)
    work.workdir_set = True
    set_directory(work, path)
    if work.directory != "/":
        _make_directory(work, command, scope)
    scope.record(work, f"WORKDIR {work.directory}", layer=work.directory != "/")


def set_directory(work: Work, path: str) -> None:
    """Change the working directory. An absolute path stays as it is written."""
    before = work.draft.working_dir or "/"
    if not path:
        path = before if before.startswith("/") else f"/{before}"
    elif not path.startswith("/"):
        path = clean(f"/{before}/{path}")
    work.draft.working_dir = work.directory = path


def _make_directory(work: Work, command: ins.Workdir, scope: Scope) -> None:
    action = ops.MakeDirectory(
        path=clean(work.directory),
        mode=0o755,
        make_parents=True,
        owner=owner(work.draft.user, 0 if work.tree is not None else None),
        timestamp=None if scope.options.epoch is None else scope.options.epoch * 1_000_000_000,
    )
    name = scope.step(work, scope.shown(work, command))
    style = scope.style(work, command, name, cached=False)
    work.tree = make.change(work.tree, [(action, None)], style)


_Handler = Callable[[Work, Any, Scope], None]
_HANDLERS: Final = cast(
    "dict[type[ins.Instruction], _Handler]",
    {
        ins.Add: add,
        ins.Arg: _arg,
        ins.Cmd: _cmd,
        ins.Entrypoint: _entrypoint,
        ins.Env: _env,
        ins.Expose: _expose,
        ins.Healthcheck: _healthcheck,
        ins.Label: _label,
        ins.Maintainer: _maintainer,
        ins.Onbuild: _onbuild,
        ins.Shell: _shell,
        ins.StopSignal: _stop_signal,
        ins.User: _user,
        ins.Volume: _volume,
        ins.Workdir: _workdir,
    },
)
