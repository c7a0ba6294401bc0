"""Write docs/reference from the code: the option table, the help texts, the routes. A test compares the two."""

import ast
import inspect
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Final
from unittest.mock import MagicMock

import click

from lading import __main__ as entry
from lading.api.engine import absent, errors, version
from lading.api.engine.routing import Handler, Route
from lading.cli.main import group
from lading.containers import request
from lading.daemon import config, containers, options, wiring
from lading.daemon.builds import Builds
from lading.daemon.options import Option

DIRECTORY: Final = Path(__file__).parents[1] / "docs" / "reference"
_MADE: Final = "<!-- Made by scripts/reference.py from the code; change the code, then run it again. -->"


def table(head: Sequence[str], rows: Iterator[Sequence[str]] | Sequence[Sequence[str]]) -> list[str]:
    lines = [list(head), ["---"] * len(head), *map(list, rows)]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def page(*parts: str | list[str]) -> str:
    lines = [line for part in parts for line in ([part] if isinstance(part, str) else part)]
    return "\n".join(lines) + "\n"


# Configuration.


def option_cells(option: Option) -> tuple[str, str]:
    short = f"`-{option.short}`, " if option.short else ""
    return (f"{short}`--{option.flag}`" if option.flag else "", f"`{option.key}`" if option.key else "")


def default_of(option: Option) -> str:
    names = (option.key.replace("-", "_"), option.flag.replace("-", "_"))
    found = next((getattr(config.Config(), n) for n in names if n and hasattr(config.Config(), n)), None)
    if isinstance(found, tuple):
        found = ", ".join(found)
    if isinstance(found, bool):
        return f"`{str(found).lower()}`"
    return f"`{found}`" if isinstance(found, str | int | Path) and str(found) else ""


def settings() -> Iterator[Sequence[str]]:
    """The object ``lading``: the text behind each field of `LadingSettings` is its meaning."""
    body = ast.parse(inspect.getsource(config.LadingSettings)).body[0]
    assert isinstance(body, ast.ClassDef)
    texts = {
        field.target.id: str(text.value.value)
        for field, text in zip(body.body, body.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
    }
    for each in fields(config.LadingSettings):
        yield (
            f"`{each.name.replace('_', '-')}`",
            texts[each.name].replace("``", "`"),
            f"`{each.default}`",
        )


def configuration() -> str:
    used = [
        (*option_cells(o), o.help, default_of(o), "yes" if o.reloadable else "")
        for o in sorted(options.USED, key=lambda o: o.flag or o.key)
    ]
    accepted, refused, kept = (
        [(*option_cells(o), o.kind.value) for o in sorted(group, key=lambda o: o.flag or o.key)]
        for group in (options.IGNORED, options.REFUSED, options.KEPT_ON)
    )
    return page(
        _MADE,
        "# Configuration",
        "",
        "`lading daemon` takes the flags of dockerd and reads the keys of its `daemon.json`, from "
        f"`{config.DEFAULT_CONFIG_FILE}` unless `--config-file` names another. A name that stands in both places is "
        "refused, and so is an unknown one. `lading daemon --validate` checks and exits. SIGHUP reads the file again: what is "
        "marked *on reload* then changes without a restart.",
        "",
        "## What has a meaning here",
        "",
        table(("flag", "key", "meaning", "default", "on reload"), used),
        "",
        "## The object `lading` of daemon.json",
        "",
        table(("key", "meaning", "default"), settings()),
        "",
        "## Accepted with a warning",
        "",
        "They change nothing; the log names each that was given.",
        "",
        table(("flag", "key", "takes"), accepted),
        "",
        "## Refused unless off",
        "",
        "Ignoring one of these would silently weaken what the administrator asked for.",
        "",
        table(("flag", "key", "takes"), refused),
        "",
        "## Refused unless on",
        "",
        "What they turn off cannot be turned off here, and who does so relies on it.",
        "",
        table(("flag", "key", "takes"), kept),
    )


# The command line.


def commands(command: click.Command, name: str, parent: click.Context | None = None) -> Iterator[str]:
    context = click.Context(
        command, parent, info_name=name, terminal_width=100, max_content_width=100, **command.context_settings
    )
    if isinstance(command, click.Group):
        for inner, each in sorted(command.commands.items()):
            yield from commands(each, inner, context)
        return
    yield from (f"## {context.command_path}", "", "```", *command.get_help(context).splitlines(), "```", "")


def command_line() -> str:
    return page(
        _MADE,
        "# The lading command",
        "",
        "```",
        entry.HELP.splitlines(),
        "```",
        "",
        list(commands(group, "lading")),
        "## lading daemon",
        "",
        "```",
        options.usage().splitlines(),
        "```",
        "",
        "configuration.md has every flag and key.",
    )


# The Engine API.


NOTHING: Final = "answers that there is none"
SERVED: Final = "served"


def answer_of(handler: Handler) -> str:
    """What a client gets: the real thing, a word that there is none, or an error."""
    if handler.__module__ != absent.__name__:
        return SERVED
    error: Any = inspect.getclosurevars(handler).nonlocals.get("error")
    if error is None:
        return NOTHING
    hint = f" ({error.hint})" if error.hint else ""
    return f"{errors.status_of(error)}, {error.message}{hint}"


def routes() -> list[Route]:
    router = wiring.make_router(*(MagicMock() for _ in range(5)), Builds(MagicMock(), MagicMock()))
    found = [*router.routes(), *containers.make_router(MagicMock()).routes()]
    return sorted(found, key=lambda route: (route.pattern.replace(":.*", ""), route.method))


TESTS: Final = Path(__file__).parents[1] / "tests" / "e2e"
_CONTAINERS: Final = ("/containers", "/exec", "/commit", "/networks", "/volumes")


def proofs() -> dict[str, list[str]]:
    """Route or field to the end-to-end tests that carry its name in ``@pytest.mark.proves``."""
    found: dict[str, list[str]] = {}
    for path in sorted(TESTS.glob("test_*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef):
                for name in _proved(node):
                    found.setdefault(name, []).append(f"`{path.stem}.{node.name}`")
    return found


def _proved(function: ast.FunctionDef) -> Iterator[str]:
    for mark in function.decorator_list:
        if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.proves":
            for node in ast.walk(mark):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


def container_routes() -> list[str]:
    """Method and pattern of every route of containers, execs, networks and volumes."""
    return [
        f"{route.method} {route.pattern}"
        for route in routes()
        if route.pattern.startswith(_CONTAINERS) and answer_of(route.handler) == SERVED
    ]


def container_fields() -> Iterator[tuple[str, str]]:
    """Every field of a create body, and what becomes of it."""
    for struct in (request.Config, request.HostConfig):
        for name in struct.__struct_encode_fields__:
            yield f"{struct.__name__}.{name}", "supported"
    for name, hint in request.UNSUPPORTED.items():
        yield f"HostConfig.{name}", "refused" + (f": {hint}" if hint else "")


def containers_in_full() -> list[str]:
    proved = proofs()
    rows = [(f"`{name}`", "<br>".join(proved.get(name, []))) for name in container_routes()]
    fields = [(f"`{name}`", state, "<br>".join(proved.get(name, []))) for name, state in container_fields()]
    return [
        "## Containers, networks and volumes: what is proved by which test",
        "",
        (
            "Each test in `tests/e2e` drives the unmodified `docker` command or docker-py. A value of a supported field that "
            "cannot be honoured is refused by the field's name."
        ),
        "",
        *table(("route", "tests"), rows),
        "",
        *table(("field", "state", "tests"), fields),
        "",
    ]


def engine_api() -> str:
    answers: dict[str, dict[str, list[str]]] = {}
    for route in routes():
        paths = answers.setdefault(answer_of(route.handler), {})
        paths.setdefault(f"`{route.pattern.replace(':.*', '')}`", []).append(route.method)

    def rows(answer: str) -> list[Sequence[str]]:
        return [(path, ", ".join(methods)) for path, methods in answers.pop(answer).items()]

    served, nothing = rows(SERVED), rows(NOTHING)
    refused = [
        (", ".join(f"{' '.join(methods)} {path}" for path, methods in paths.items()), answer)
        for answer, paths in sorted(answers.items())
    ]
    return page(
        _MADE,
        "# Engine API",
        "",
        f"Versions {version.text(version.MIN)} to {version.text(version.MAX)}, each shaped as it was; every route also stands "
        "without a version. What is not listed answers 404, *page not found*.",
        "",
        "## Served",
        "",
        "Routes below `/lading` are ours; the rest is Docker's.",
        "",
        table(("path", "methods"), served),
        "",
        containers_in_full(),
        "## Answered without being there",
        "",
        "There are no plugins and no build caches. Lists are empty, prunes free "
        "nothing, and whatever is named is not found, in Docker's shapes and words.",
        "",
        table(("path", "methods"), nothing),
        "",
        "## Refused",
        "",
        table(("routes", "answer"), refused),
    )


PAGES: Final = {"configuration.md": configuration, "cli.md": command_line, "engine-api.md": engine_api}


def main() -> int:
    for name, make in PAGES.items():
        (DIRECTORY / name).write_text(make())
    return 0


if __name__ == "__main__":
    sys.exit(main())
