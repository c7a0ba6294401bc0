"""Git repositories as sources: ``https://host/x.git#ref:dir``, ``git@host:x.git``, and their query form ``?ref=…&subdir=…``."""

import posixpath
import re
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import SplitResult, parse_qs, urlsplit, urlunsplit

from lading.formats.dockerfile import values
from lading.formats.dockerfile.errors import DockerfileError

_PROTOCOL: Final = re.compile(r"([a-zA-Z0-9]+)://")
_SCP: Final = re.compile(r"([a-zA-Z0-9\-_]+)@([a-zA-Z0-9\-.]+):(.*?)(?:\?(.*?))?(?:#(.*))?", re.DOTALL)
_SUPPORTED: Final = frozenset({"http", "https", "ssh", "git"})


@dataclass(frozen=True, slots=True, kw_only=True)
class GitRef:
    """A place in a repository. Absent texts are empty; ``None`` leaves the choice to who fetches."""

    remote: str
    """What Git is told to fetch."""
    scheme: str
    host: str
    path: str
    ref: str = ""
    subdir: str = ""
    checksum: str = ""
    keep_git_dir: bool | None = None
    submodules: bool | None = None
    like_local: bool = False
    """It could as well be the name of a local directory: ``github.com/x/y``."""

    @property
    def identifier(self) -> str:
        """Host, path and place, without the protocol: what LLB calls the source."""
        place = f"#{self.ref}" if self.ref or self.subdir else ""
        sub = f":{self.subdir}" if self.subdir else ""
        return self.host + posixpath.normpath("/" + self.path.lstrip("/")) + place + sub


def parse_git_ref(text: str) -> GitRef | None:
    """The Git reference that a text is, if it is one. Raises `DockerfileError` if it is one with a bad query."""
    found = _located(text)
    if found is None:
        return None
    location, query, fragment = found
    ref, _, subdir = fragment.partition(":")
    return _with_query(replace(location, ref=ref, subdir=subdir), query)


def _located(text: str) -> tuple[GitRef, str, str] | None:
    """The repository, the query, and the fragment."""
    if text.startswith(("./", "../")):
        return None
    if text.startswith("github.com/"):
        return _of_url(f"https://{text}", like_local=True)
    protocol = _PROTOCOL.match(text)
    if protocol is not None:
        if protocol[1].lower() not in _SUPPORTED:
            return None
        found = _of_url(text)
        web = protocol[1].lower() in ("http", "https")
        return None if web and found and not found[0].path.endswith(".git") else found
    scp = _SCP.fullmatch(text)
    if scp is None:
        return None
    user, host, path, query, fragment = scp.groups(default="")
    location = GitRef(remote=f"{user}@{host}:{path}", scheme="ssh", host=host, path=path)
    return location, query, fragment


def _of_url(text: str, *, like_local: bool = False) -> tuple[GitRef, str, str] | None:
    try:
        url = urlsplit(text)
    except ValueError:
        return None
    bare = urlunsplit(SplitResult(url.scheme, url.netloc, url.path, "", ""))
    host = url.netloc.rpartition("@")[2]
    remote = bare.partition("://")[2] if like_local else bare
    location = GitRef(remote=remote, scheme=url.scheme, host=host, path=url.path, like_local=like_local)
    return location, url.query, url.fragment


def _with_query(location: GitRef, query: str) -> GitRef:
    if not query:
        return location
    found = location
    heads: dict[str, str] = {}
    for key, given in parse_qs(query, keep_blank_values=True).items():
        if len(given) > 1:
            raise DockerfileError(f'query "{key}" has multiple values')
        value = given[0]
        if not value and key not in ("submodules", "keep-git-dir"):
            raise DockerfileError(f'query "{key}" has no value')
        match key:
            case "ref":
                found = replace(found, ref=_agreed("ref", found.ref, value))
            case "subdir":
                found = replace(found, subdir=_agreed("subdir", found.subdir, value))
            case "tag" | "branch":
                heads[key] = value
            case "checksum" | "commit":
                found = replace(found, checksum=value)
            case "keep-git-dir":
                found = replace(found, keep_git_dir=_truth(key, value))
            case "submodules":
                found = replace(found, submodules=_truth(key, value))
            case _:
                raise DockerfileError(f'unexpected query "{key}"')
    if len(heads) > 1:
        raise DockerfileError("branch conflicts with tag")
    for key, value in heads.items():
        prefix = "refs/tags/" if key == "tag" else "refs/heads/"
        full = value if value.startswith(prefix) else prefix + value
        found = replace(found, ref=_agreed("ref", found.ref, full))
    return found


def _agreed(what: str, before: str, value: str) -> str:
    if before and before != value:
        raise DockerfileError(f'{what} conflicts: "{before}" vs "{value}"')
    return value


def _truth(key: str, value: str) -> bool:
    found = values.truth(value or "true")
    if found is None:
        raise DockerfileError(f'invalid {key} value: "{value}"')
    return found


def is_http(text: str) -> bool:
    """Whether a source is a file on the web, rather than a repository there."""
    return text.startswith(("http://", "https://")) and not is_git(text)


def is_git(text: str) -> bool:
    """Whether a source is a repository; one with a bad query is none."""
    try:
        return parse_git_ref(text) is not None
    except DockerfileError:
        return False
