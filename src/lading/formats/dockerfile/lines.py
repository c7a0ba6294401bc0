"""Text to logical lines: continuations joined, comments dropped, heredocs collected, arguments divided as each instruction wants.

The rules are BuildKit's (``frontend/dockerfile/parser``), odd ones included: a comment inside a continuation is passed over, an
empty line there is too but deserves a warning, and the first words after the instruction that start with ``--`` are flags.
"""

import itertools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, cast

from lading.formats.dockerfile.directives import BOM, DirectiveReader
from lading.formats.dockerfile.errors import DockerfileError, Lines
from lading.formats.dockerfile.shell import Lexer
from lading.formats.dockerfile.words import SPACE, split_flags, split_words

LINE_LIMIT: Final = 65536
"""Characters of one line, its newline included."""
INSTRUCTION_LIMIT: Final = 100_000
"""Instructions of one Dockerfile; as many operations as a graph has at most."""
_HEREDOC: Final = re.compile(r"([0-9]*)<<(-?)\s*([^<]*)")
_TABS: Final = re.compile(r"^\t+", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Heredoc:
    """``<<WORD``: the lines up to ``WORD``. A quoted word keeps variables from being replaced; ``<<-`` drops leading tabs."""

    name: str
    expand: bool = True
    chomp: bool = False
    content: str = ""
    descriptor: int = 0

    @property
    def text(self) -> str:
        """The content as a file gets it."""
        return chomped(self.content) if self.chomp else self.content


def chomped(text: str) -> str:
    """Without the tabs that lines start with."""
    return _TABS.sub("", text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One instruction as written. ``args`` are divided, but neither unquoted nor expanded."""

    name: str
    flags: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    json: bool = False
    """Whether the arguments were a JSON array."""
    original: str = ""
    """The logical line."""
    lines: Lines = field(default_factory=lambda: Lines(0, 0))
    comments: tuple[str, ...] = ()
    """Comment lines right before it."""
    heredocs: tuple[Heredoc, ...] = ()

    @property
    def keyword(self) -> str:
        """The instruction's name in upper case."""
        return self.name.upper()


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """A Dockerfile in logical lines, with the places of continuations that hold an empty line."""

    nodes: tuple[Node, ...]
    escape: str
    empty_continuations: tuple[Lines, ...]


def parse_lines(data: bytes) -> Parsed:
    """Raises `DockerfileError`."""
    parser = _Parser(data)
    nodes = tuple(itertools.islice(parser.nodes(), INSTRUCTION_LIMIT + 1))
    here = Lines(parser.line, parser.line)
    if not nodes:
        raise DockerfileError("file with no instructions", lines=here)
    if len(nodes) > INSTRUCTION_LIMIT:
        raise DockerfileError(f"the Dockerfile has over {INSTRUCTION_LIMIT} instructions", lines=here)
    return Parsed(nodes=nodes, escape=parser.escape, empty_continuations=tuple(parser.empty))


class _Parser:
    def __init__(self, data: bytes) -> None:
        text = data.removeprefix(BOM).decode("utf-8", "surrogateescape")
        self._source = _lines(text)
        self._directives = DirectiveReader()
        self.line = 0
        self.escape = "\\"
        self.empty: list[Lines] = []

    def _take(self) -> str | None:
        """The next line with its newline."""
        line = next(self._source, None)
        if line is None:
            return None
        self.line += 1
        if len(line) > LINE_LIMIT:
            raise DockerfileError(
                f"dockerfile line greater than max allowed size of {LINE_LIMIT - 1}",
                lines=Lines(self.line, self.line),
            )
        return line

    def _directive(self, line: str) -> bool:
        found = self._directives.take(line)
        if found is not None and found.key == "escape":
            if found.value not in ("\\", "`"):
                raise DockerfileError(
                    f"invalid escape token '{found.value}' does not match ` or \\", lines=found.lines
                )
            self.escape = found.value
        return found is not None

    def nodes(self) -> Iterator[Node]:
        comments: list[str] = []
        while (raw := self._take()) is not None:
            line = raw.rstrip("\r\n").lstrip()
            if self._directive(line):
                continue
            if line.startswith("#"):
                comment = line[1:].strip()
                comments.append(comment) if comment else comments.clear()
                continue
            start = self.line
            logical = self._logical(line)
            if logical is None:
                continue
            yield self._node(logical, start, tuple(comments))
            comments.clear()

    def _logical(self, line: str) -> str | None:
        """The line with those that continue it; ``None`` if it is empty."""
        parts: list[str] = []
        empty = False
        part, continued = self._continuation(line)
        if not part and not continued:
            return None
        parts.append(part)
        while continued and (raw := self._take()) is not None:
            line = raw.rstrip("\r\n")
            self._directive(line)
            if line.lstrip().startswith("#"):
                continue
            if not line.strip():
                empty = True
                continue
            part, continued = self._continuation(line)
            parts.append(part)
        if empty:
            self.empty.append(Lines(self.line, self.line))
        return "".join(parts)

    def _continuation(self, line: str) -> tuple[str, bool]:
        """The line without the escape character at its end, and whether it had one: a single one, that is."""
        body = line.rstrip(" \t")
        if body.endswith(self.escape) and not body.endswith(self.escape * 2):
            return body[:-1], True
        return line, False

    def _node(self, logical: str, start: int, comments: tuple[str, ...]) -> Node:
        try:
            node = node_from_line(logical, self.escape)
            heredocs = tuple(self._filled(one) for one in _heredocs(node, logical))
        except DockerfileError as exc:
            raise exc.at(Lines(start, self.line)) from exc
        return Node(
            name=node.name,
            flags=node.flags,
            args=node.args,
            json=node.json,
            original=node.original,
            lines=Lines(start, self.line),
            comments=comments,
            heredocs=heredocs,
        )

    def _filled(self, heredoc: Heredoc) -> Heredoc:
        content: list[str] = []
        while (raw := self._take()) is not None:
            line = raw.rstrip("\r\n")
            if (line.lstrip("\t") if heredoc.chomp else line) == heredoc.name:
                return Heredoc(
                    name=heredoc.name,
                    expand=heredoc.expand,
                    chomp=heredoc.chomp,
                    descriptor=heredoc.descriptor,
                    content="".join(content),
                )
            content.append(raw)
        raise DockerfileError("unterminated heredoc")


def _lines(text: str) -> Iterator[str]:
    return (match[0] for match in re.finditer(r"[^\n]*\n|[^\n]+\Z", text))


# Heredocs.


def parse_heredoc(word: str) -> Heredoc | None:
    """The heredoc that a word starts, without content. Raises `DockerfileError` for one with an unfinished quote."""
    match = _HEREDOC.fullmatch(word)
    if match is None or not match[3]:
        return None
    plain = Lexer(keep_unset=True).expand(match[3], {}).words
    if len(plain) != 1:
        return None
    raw = Lexer(keep_unset=True, raw_quotes=True).expand(match[3], {}).words
    unquoted = sum(map(plain[0].count, "'\"")) == sum(map(raw[0].count, "'\""))
    return Heredoc(name=plain[0], expand=unquoted, chomp=bool(match[2]), descriptor=int(match[1] or 0))


def _heredocs(node: Node, line: str) -> list[Heredoc]:
    """Those that a line starts, if it may have any; ``ONBUILD`` may for what it holds."""
    name = node.args[0].upper() if node.keyword == "ONBUILD" and node.args else node.keyword
    if node.json or name not in ("ADD", "COPY", "RUN") or "<<" not in line:
        return []
    lexer = Lexer(raw_quotes=True, raw_escapes=True, keep_unset=True)
    try:
        words = lexer.expand(line, {}).words
    except DockerfileError:
        return []
    return [found for word in words if (found := parse_heredoc(word)) is not None]


# Arguments.


def node_from_line(line: str, escape: str) -> Node:
    """An instruction of its logical line. Raises `DockerfileError`."""
    name, *rest = SPACE.split(line.strip(), maxsplit=1)
    flags, text = split_flags(rest[0], escape) if rest else ([], "")
    args, is_json = _DIVIDERS.get(name.upper(), _ignored)(text.strip(), escape)
    return Node(name=name, flags=tuple(flags), args=tuple(args), json=is_json, original=line)


_Divided = tuple[list[str], bool]


def _ignored(_text: str, _escape: str) -> _Divided:
    """The arguments of what is no instruction."""
    return [], False


def _whole(text: str, _escape: str) -> _Divided:
    return [text] if text else [], False


def _by_space(text: str, _escape: str) -> _Divided:
    return SPACE.split(text) if text else [], False


def _by_word(text: str, escape: str) -> _Divided:
    return split_words(text, escape), False


def json_array(text: str) -> list[str] | None:
    """The strings of a JSON array; ``None`` if it is no array. Raises `DockerfileError` if it holds something else."""
    if not text.startswith("["):
        return None
    try:
        items = cast("list[object]", json.loads(text))
    except (ValueError, RecursionError):
        return None
    strings = [item for item in items if isinstance(item, str)]
    if len(strings) != len(items):
        raise DockerfileError("when using JSON array syntax, arrays must be comprised of strings only")
    return [item.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for item in strings]


def _json_or_whole(text: str, escape: str) -> _Divided:
    items = json_array(text)
    return (items, True) if items is not None else _whole(text, escape)


def _json_or_by_space(text: str, escape: str) -> _Divided:
    items = json_array(text)
    return (items, True) if items is not None else _by_space(text, escape)


def _health(text: str, escape: str) -> _Divided:
    """``NONE`` or ``CMD``, then a command."""
    if not text:
        return [], False
    kind, *rest = text.split(maxsplit=1)
    items, is_json = _json_or_whole(rest[0] if rest else "", escape)
    return [kind, *items], is_json


def _pairs(name: str) -> Callable[[str, str], _Divided]:
    """``key=value …`` or, of old, ``key value``; three arguments each: the key, the value, and ``=`` or nothing."""

    def divide(text: str, escape: str) -> _Divided:
        words = split_words(text, escape)
        if not words:
            return [], False
        if "=" not in words[0]:
            parts = SPACE.split(text, maxsplit=1)
            if len(parts) < 2:
                raise DockerfileError(f"{name} must have two arguments")
            return [*parts, ""], False
        args: list[str] = []
        for word in words:
            key, equals, value = word.partition("=")
            if not equals:
                raise DockerfileError(
                    f'Syntax error - can\'t find = in "{word}". Must be of the form: name=value'
                )
            args += [key, value, equals]
        return args, False

    return divide


def _trigger(text: str, escape: str) -> _Divided:
    """An instruction with its arguments; one of its own kind is refused later, and is not looked into."""
    if not text:
        return [], False
    name, *rest = SPACE.split(text, maxsplit=1)
    if name.upper() == "ONBUILD":
        return [name, *rest], False
    inner = node_from_line(text, escape)
    return [inner.name, *inner.args], inner.json


_DIVIDERS: Final[dict[str, Callable[[str, str], _Divided]]] = {
    "ADD": _json_or_by_space,
    "ARG": _by_word,
    "CMD": _json_or_whole,
    "COPY": _json_or_by_space,
    "ENTRYPOINT": _json_or_whole,
    "ENV": _pairs("ENV"),
    "EXPOSE": _by_space,
    "FROM": _by_space,
    "HEALTHCHECK": _health,
    "LABEL": _pairs("LABEL"),
    "MAINTAINER": _whole,
    "ONBUILD": _trigger,
    "RUN": _json_or_whole,
    "SHELL": _json_or_whole,
    "STOPSIGNAL": _whole,
    "USER": _whole,
    "VOLUME": _json_or_by_space,
    "WORKDIR": _whole,
}
INSTRUCTIONS: Final = frozenset(_DIVIDERS)
"""Names of all instructions."""
