"""The shell's way with words: quotes, escapes and variables, as far as BuildKit goes with it.

Forms: ``$v ${v} ${v:-w} ${v-w} ${v:+w} ${v+w} ${v:?w} ${v?w} ${v#p} ${v##p} ${v%p} ${v%%p} ${v/p/r} ${v//p/r}``. Single quotes
keep everything; in double quotes only ``"``, ``$`` and the escape character can be escaped.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from lading.formats.dockerfile.errors import DockerfileError
from lading.formats.dockerfile.globs import Glob

_SPECIAL: Final = frozenset("@*#?-$!0")
"""Names of one character (POSIX shell, 2.5.2)."""
EXPANSION_LIMIT: Final = 64 << 20
"""Characters that a Dockerfile may become (see `Allowance`)."""
DEPTH_LIMIT: Final = 100
"""Expressions within each other, ``${a:-${b:-…}}``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expanded:
    """A word after expansion, or the words that it falls into; and the names that it used, found or not."""

    text: str
    words: tuple[str, ...]
    found: frozenset[str]
    missing: frozenset[str]


@dataclass(slots=True)
class Allowance:
    """What is left of `EXPANSION_LIMIT` for what short files can say at length.

    These are the values of variables wherever they stand, the characters that patterns look at, environments, histories, and
    what stages inherit. A few variables that double each other, or some thousand stages, would fill any memory without it.
    """

    left: int = EXPANSION_LIMIT

    def spend(self, count: int) -> None:
        """Raises `DockerfileError` if that is more than is left."""
        self.left -= count
        if self.left < 0:
            raise DockerfileError(
                f"the variables and stages of the Dockerfile stand for over {EXPANSION_LIMIT} characters"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Lexer:
    """How words are read. The ``raw`` ones keep quotes and escapes; ``keep_unset`` leaves unset variables as they stand.

    One is used for a whole Dockerfile, which has one allowance.
    """

    escape: str = "\\"
    raw_quotes: bool = False
    raw_escapes: bool = False
    ignore_quotes: bool = False
    """Quotes are characters like others."""
    keep_unset: bool = False
    allowance: Allowance = field(default_factory=Allowance, compare=False)

    def expand(self, text: str, variables: Mapping[str, str]) -> Expanded:
        """Raises `DockerfileError` for an unfinished quote or expression, or as ``${v:?}`` says."""
        reader = _Reader(self, text, variables)
        try:
            result, words = reader.read("", raw_escapes=self.raw_escapes)
        except DockerfileError as exc:
            raise DockerfileError(f"failed to process {_quoted(text)}: {exc.message}") from exc
        return Expanded(
            text=result, words=tuple(words), found=frozenset(reader.found), missing=frozenset(reader.missing)
        )


def _quoted(text: str) -> str:
    """As Go's ``%q`` shows it, near enough for people."""
    return (
        '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t") + '"'
    )


@dataclass(slots=True)
class _Words:
    """Collects words: bare white space divides them."""

    done: list[str] = field(default_factory=list[str])
    open: list[str] = field(default_factory=list[str])

    def add(self, text: str, *, raw: bool) -> None:
        if raw:
            self.open.append(text)
            return
        parts = text.split()
        if self.open and text[:1].isspace():
            self.close()
        for number, part in enumerate(parts, 1):
            self.open.append(part)
            if number < len(parts) or text[-1].isspace():
                self.close()

    def close(self) -> list[str]:
        word = "".join(self.open)
        if word:
            self.done.append(word)
        self.open.clear()
        return self.done


class _Reader:
    def __init__(self, lexer: Lexer, text: str, variables: Mapping[str, str]) -> None:
        self._lexer = lexer
        self._text = text
        self._place = 0
        self._variables = variables
        self._raw_escapes = lexer.raw_escapes
        self._depth = 0
        self.found: set[str] = set()
        self.missing: set[str] = set()

    def _peek(self) -> str:
        """The next character; empty at the end."""
        return self._text[self._place : self._place + 1]

    def _next(self) -> str:
        char = self._peek()
        self._place += 1
        return char

    def read(self, stop: str, *, raw_escapes: bool) -> tuple[str, list[str]]:
        """Everything up to ``stop`` (which is passed over), or to the end."""
        before, self._raw_escapes = self._raw_escapes, raw_escapes
        self._depth += 1
        if self._depth > DEPTH_LIMIT:
            raise DockerfileError(f"variables are nested deeper than {DEPTH_LIMIT} expressions")
        try:
            return self._read(stop)
        finally:
            self._raw_escapes = before
            self._depth -= 1

    def _read(self, stop: str) -> tuple[str, list[str]]:
        special: dict[str, Callable[[], str]] = {"$": self._dollar, "<": self._less}
        if not self._lexer.ignore_quotes:
            special |= {"'": self._single, '"': self._double}
        result: list[str] = []
        words = _Words()
        while char := self._peek():
            if char == stop:
                self._place += 1
                return "".join(result), words.close()
            if char in special:
                part = special[char]()
                words.add(part, raw=char != "$")
            else:
                part, raw = self._plain()
                words.add(part, raw=raw)
            result.append(part)
        if stop:
            raise DockerfileError(f"unexpected end of statement while looking for matching {stop}")
        return "".join(result), words.close()

    def _plain(self) -> tuple[str, bool]:
        """One character, or what an escape stands for, and whether it was escaped."""
        char = self._next()
        if char != self._lexer.escape:
            return char, False
        return (char if self._raw_escapes else "") + self._next(), True

    def _single(self) -> str:
        start = self._place
        end = self._text.find("'", start + 1)
        if end < 0:
            self._place = len(self._text)
            raise DockerfileError("unexpected end of statement while looking for matching single-quote")
        self._place = end + 1
        return self._text[start : end + 1] if self._lexer.raw_quotes else self._text[start + 1 : end]

    def _double(self) -> str:
        quote = self._next() if self._lexer.raw_quotes else self._next()[1:]
        result = [quote]
        while char := self._peek():
            if char == '"':
                self._place += 1
                return "".join(result) + ('"' if quote else "")
            result.append(self._dollar() if char == "$" else self._in_double())
        raise DockerfileError("unexpected end of statement while looking for matching double-quote")

    def _in_double(self) -> str:
        char = self._next()
        if char != self._lexer.escape:
            return char
        kept = char if self._raw_escapes else ""
        following = self._peek()
        if not following:
            return kept
        if following in ('"', "$", self._lexer.escape):
            self._place += 1
            return kept + following
        return char

    def _less(self) -> str:
        """``<``, or the ``<<`` of a heredoc with the space after it, which does not divide words."""
        self._place += 1
        if self._peek() != "<":
            return "<"
        start = self._place
        self._place += 1
        while self._peek() in ("\t", "\r", " "):
            self._place += 1
        return "<" + self._text[start : self._place]

    # Variables.

    def _dollar(self) -> str:
        self._place += 1
        if self._peek() != "{":
            name = self._name()
            value = self._value(name) if name else "$"
            return f"${name}" if value is None and self._lexer.keep_unset else value or ""
        self._place += 1
        if not self._peek():
            raise DockerfileError("syntax error: missing '}'")
        if self._peek() in "{}:":
            raise DockerfileError("syntax error: bad substitution")
        return self._braced(self._name())

    def _name(self) -> str:
        """A name, a number, or a special parameter; empty if nothing of that stands here."""
        first = self._peek()
        if first and first in _SPECIAL and not first.isdigit():
            self._place += 1
            return first
        start = self._place
        accept = str.isdecimal if first.isdecimal() else _in_name
        while (char := self._peek()) and accept(char):
            self._place += 1
        return self._text[start : self._place]

    def _value(self, name: str) -> str | None:
        value = self._variables.get(name)
        (self.missing if value is None else self.found).add(name)
        self._lexer.allowance.spend(len(value or ""))
        return value

    def _braced(self, name: str) -> str:
        char = self._next()
        if char == "}":
            value = self._value(name)
            return f"${{{name}}}" if value is None and self._lexer.keep_unset else value or ""
        if char == "/":
            return self._replaced(name)
        modifier = char + self._next() if char == ":" else char
        if modifier not in (":-", ":+", ":?", "-", "+", "?", "#", "%"):
            raise DockerfileError(f"unsupported modifier ({modifier}) in substitution")
        word = self._until("}", "missing '}'", raw_escapes=modifier in "#%")
        value = self._value(name)
        if value is None and self._lexer.keep_unset:
            return f"${{{name}{modifier}{word}}}"
        return _modified(name, value, modifier, word, self._lexer.allowance)

    def _until(self, stop: str, complaint: str, *, raw_escapes: bool) -> str:
        try:
            return self.read(stop, raw_escapes=raw_escapes)[0]
        except DockerfileError as exc:
            if self._peek():
                raise
            raise DockerfileError(f"syntax error: {complaint}") from exc

    def _replaced(self, name: str) -> str:
        everywhere = self._peek() == "/"
        self._place += everywhere
        pattern = self._until("/", "missing '/' in ${}", raw_escapes=True)
        replacement = self._until("}", "missing '}'", raw_escapes=True)
        value = self._value(name)
        if value is None:
            return f"${{{name}/{pattern}/{replacement}}}" if self._lexer.keep_unset else ""
        allowance = self._lexer.allowance
        allowance.spend(len(value) * len(pattern))
        parts = Glob(pattern, greedy=True).cut(value, everywhere=everywhere)
        allowance.spend(len(replacement) * (len(parts) - 1))
        return replacement.join(parts)


def _in_name(char: str) -> bool:
    return char == "_" or char.isalpha() or char.isdecimal()


def _modified(name: str, value: str | None, modifier: str, word: str, allowance: Allowance) -> str:
    operator = modifier[-1]
    absent = value is None or (modifier.startswith(":") and not value)
    match operator:
        case "-":
            return word if absent else value or ""
        case "+":
            return "" if absent else word
        case "?":
            if absent:
                state = "unset" if value is None else "empty"
                raise DockerfileError(f"{name}: {word or f'is not allowed to be {state}'}")
            return value or ""
        case _:
            greedy = word.startswith(operator)
            trim = _without_prefix if operator == "#" else _without_suffix
            allowance.spend(len(value or "") * len(word))
            return trim(value or "", Glob(word[greedy:], greedy=greedy))


def _without_prefix(value: str, pattern: Glob) -> str:
    end = pattern.end_at(value, 0)
    return value if end is None else value[end:]


def _without_suffix(value: str, pattern: Glob) -> str:
    """Both are turned round: what is wanted is a match that ends where the value does."""
    return _without_prefix(value[::-1], pattern.turned())[::-1]
