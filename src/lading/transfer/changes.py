"""Changes to an image config, written as Dockerfile instructions: ``docker import -c`` and ``docker commit -c``.

They are read as a Dockerfile is, and see the variables of the config. Only instructions that change the config are allowed (moby,
``builder/dockerfile/builder.go``, ``BuildFromConfig``), and SHELL, which changes what the others mean.
"""

import posixpath
from collections.abc import Iterable
from typing import Final

import msgspec

from lading.errors import InvalidArgumentError
from lading.formats.dockerfile import instructions as ins
from lading.formats.dockerfile import rules
from lading.formats.dockerfile.lines import parse_lines
from lading.formats.dockerfile.parse import parse_instruction
from lading.formats.dockerfile.ports import parse_ports
from lading.formats.dockerfile.shell import Lexer
from lading.oci.config import Healthcheck, RunConfig

_DEFAULT_SHELL: Final = ("/bin/sh", "-c")
_ALLOWED: Final = frozenset(
    {
        *("CMD", "ENTRYPOINT", "ENV", "EXPOSE", "HEALTHCHECK", "LABEL"),
        *("ONBUILD", "SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"),
    }
)


def apply(config: RunConfig, changes: Iterable[str]) -> RunConfig:
    """``config`` with every change applied in order; empty lines and comments are skipped.

    Raises:
        InvalidArgumentError: An instruction is unknown, not allowed here, or malformed.

    """
    text = "\n".join(changes)
    if all(not line.strip() or line.lstrip().startswith("#") for line in text.splitlines()):
        return config
    parsed = parse_lines(text.encode("utf-8", "surrogateescape"))
    lexer = Lexer(escape=parsed.escape)
    for node in parsed.nodes:
        if node.name.upper() not in _ALLOWED:
            raise InvalidArgumentError(
                f"{node.name[:40]} is not a valid change command",
                hint=f"use one of {', '.join(sorted(_ALLOWED))}",
            )
        instruction = parse_instruction(node)
        assert not isinstance(instruction, ins.From)
        config = _applied(config, instruction, lexer)
    return config


def _applied(config: RunConfig, command: ins.Command, lexer: Lexer) -> RunConfig:
    entries = [entry.partition("=") for entry in config.env or ()]
    variables = {key: value for key, _, value in entries}

    def expand(text: str) -> str:
        return lexer.expand(text, variables).text

    change = msgspec.structs.replace
    match command:
        case ins.Cmd():
            return change(config, cmd=_words(config, command.command))
        case ins.Entrypoint():
            return change(
                config, entrypoint=_words(config, command.command) if command.command.args else None
            )
        case ins.Env():
            variables |= _pairs(command.expanded(expand))
            return change(config, env=tuple(f"{key}={value}" for key, value in variables.items()))
        case ins.Label():
            return change(config, labels={**(config.labels or {}), **_pairs(command.expanded(expand))})
        case ins.Expose():
            words = [word for port in command.ports for word in lexer.expand(port, variables).words]
            ports = parse_ports(words, command.lines, rules.ignore)
            return change(config, exposed_ports={**(config.exposed_ports or {}), **_set(ports)})
        case ins.Volume():
            volumes = command.expanded(expand).volumes
            return change(config, volumes={**(config.volumes or {}), **_set(volumes)})
        case ins.User():
            return change(config, user=_user(expand(command.value)))
        case ins.Workdir():
            path = posixpath.join(config.working_dir or "/", expand(command.value))
            return change(config, working_dir=posixpath.normpath(path))
        case ins.StopSignal():
            return change(config, stop_signal=expand(command.value))
        case ins.Onbuild():
            return change(config, on_build=(*(config.on_build or ()), command.expression))
        case ins.Shell():
            return change(config, shell=command.shell)
        case ins.Healthcheck():
            return change(config, healthcheck=_healthcheck(command))
        case _:
            raise InvalidArgumentError(f"{command.name[:40]} is not a valid change command")


def _words(config: RunConfig, command: ins.CommandLine) -> tuple[str, ...]:
    """The words of a command, which may be none: ``CMD`` alone gives the bare shell, ``CMD []`` nothing, as in a build."""
    return (*(config.shell or _DEFAULT_SHELL), *command.args) if command.shell else command.args


def _user(text: str) -> str:
    if len(text.split()) != 1:
        raise InvalidArgumentError("USER requires exactly one argument")
    return text


def _pairs(command: ins.Env | ins.Label) -> dict[str, str]:
    return {pair.key: pair.value for pair in command.pairs}


def _set(names: Iterable[str]) -> dict[str, dict[str, str]]:
    return {name: {} for name in names}


def _healthcheck(command: ins.Healthcheck) -> Healthcheck:
    return Healthcheck(
        test=command.test,
        interval=command.interval,
        timeout=command.timeout,
        start_period=command.start_period,
        start_interval=command.start_interval,
        retries=command.retries,
    )
