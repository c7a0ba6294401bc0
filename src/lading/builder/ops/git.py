"""``git://``: a commit of a repository, checked out by Debian's git in an environment that neither the machine nor the repository
can configure: no hooks, no prompts, no helpers, and of the protocols only those that go over a network.
"""

import base64
import os
import posixpath
import re
import shutil
import signal
import subprocess
import urllib.parse
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import anyio
from typing_extensions import override

from lading.builder.ops import agents, contents
from lading.builder.ops.files import copying, paths
from lading.builder.ops.mutables import Mutables, Sharing
from lading.builder.ops.trees import NOTHING, Tree, Trees
from lading.builder.solver.operation import CacheMap, Context, Operation
from lading.core.session import Session
from lading.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    UnauthenticatedError,
    UnsupportedError,
)
from lading.formats.llb import ops
from lading.kit import aio

KIND: Final = "source.git.checkout"
_PROTOCOLS: Final = ("https", "http", "ssh", "git")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_SCP: Final = re.compile(r"(?:[A-Za-z0-9_.+-]+@)?[A-Za-z0-9.-]+:(?!//)[^\s]+")
_AUTH_FAILURES: Final = ("Authentication failed", "could not read Username", "Permission denied")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """What is to be checked out."""

    url: str
    ref: str = ""
    subdir: str = ""
    """As it was written."""
    keep: bool = False
    """Whether ``.git`` stays."""
    submodules: bool = True
    checksum: str = ""
    token_secret: str = ""
    header_secret: str = ""
    known_hosts: str = ""
    agent: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """How git is called: what it is told on its command line, and where an agent listens."""

    options: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()


class GitOperation(Operation[Tree]):
    """A checkout; known by its commit."""

    def __init__(self, op: ops.SourceOp, trees: Trees, mutables: Mutables, state: Path) -> None:
        self._wish = _wish(op)
        self._trees = trees
        self._mutables = mutables
        self._state = state
        self._commit = ""

    @property
    @override
    def slots(self) -> int:
        return 0

    @override
    def close(self) -> None:
        return

    @override
    async def cache_map(self, context: Context) -> CacheMap[Tree]:
        async with self._call(context) as call:
            self._commit, ref = await self._resolve(call)
        wish = self._wish
        if wish.checksum and not self._commit.startswith(wish.checksum):
            raise FailedPreconditionError(
                f"expected checksum to match {wish.checksum}, got {self._commit}", subject=wish.url
            )
        return contents.of_commit(
            self._commit, ref, keep=wish.keep, subdir=wish.subdir, submodules=wish.submodules
        )

    async def _resolve(self, call: _Call) -> tuple[str, str]:
        """The commit that the reference means now, and the reference's full name; none for a commit."""
        wish = self._wish
        if _COMMIT.fullmatch(wish.ref):
            return wish.ref, ""
        reference = wish.ref or "HEAD"
        patterns = [reference, f"{reference}^{{}}"]
        output = await self._git(call, None, "ls-remote", "--symref", "--", wish.url, *patterns)
        told = [line.partition("\t") for line in output.splitlines()]
        commits = {name: value for value, _, name in told if _COMMIT.fullmatch(value)}
        branches = {name: value[5:] for value, _, name in told if value.startswith("ref: ")}
        # As BuildKit and "git checkout" choose: a branch before a tag of the same name.
        for name in (
            f"refs/{reference.removeprefix('refs/')}",
            f"refs/heads/{reference.removeprefix('refs/heads/')}",
            f"refs/tags/{reference.removeprefix('refs/tags/')}",
            reference,
        ):
            commit = commits.get(f"{name}^{{}}") or commits.get(name)
            if commit is not None:
                return commit, branches.get(name, name)
        raise NotFoundError(f"repository {_shown(wish.url)} has no ref {reference}", subject=reference)

    @override
    async def run(self, inputs: Sequence[Tree], context: Context) -> list[Tree]:
        async with (
            self._call(context) as call,
            self._trees.active(NOTHING) as active,
            self._trees.active(NOTHING) as scratch,
        ):
            bare = await self._mutables.take(
                KIND, self._wish.url, sharing=Sharing.LOCKED, description=f"git {_shown(self._wish.url)}"
            )
            try:
                store = bare.mounts[0].source
                await self._fetch(call, store, context)
                checkout = scratch.mounts[0].source
                await self._check_out(call, store, checkout)
            finally:
                self._mutables.release(bare)
            await self._trees.work(
                active.mounts, [scratch.mounts], partial(_take, self._wish.subdir, self._wish.keep)
            )
            name = await active.commit()
        return [Tree(layers=(name,), top=name, own=(name,))]

    async def _fetch(self, call: _Call, store: str, context: Context) -> None:
        """Have the commit in the bare repository."""
        wish = self._wish
        if not (Path(store) / "HEAD").exists():
            await self._git(call, store, "-c", "init.defaultBranch=master", "init", "-q", "--bare", ".")
        with suppress(FailedPreconditionError):
            await self._git(call, store, "cat-file", "-e", f"{self._commit}^{{commit}}")
            return
        context.status(f"fetch {_shown(wish.url)}")
        wanted = [self._commit, *([wish.ref] if wish.ref and wish.ref != self._commit else [])]
        for attempt in wanted:
            try:
                await self._git(call, store, "fetch", "-q", "--no-tags", "--depth=1", "--", wish.url, attempt)
            except FailedPreconditionError:
                continue  # not every server gives commits by name
            with suppress(FailedPreconditionError):
                await self._git(call, store, "cat-file", "-e", f"{self._commit}^{{commit}}")
                return
        await self._git(call, store, "fetch", "-q", "--", wish.url, "+refs/*:refs/fetched/*")
        await self._git(call, store, "cat-file", "-e", f"{self._commit}^{{commit}}")

    async def _check_out(self, call: _Call, store: str, checkout: str) -> None:
        git = partial(self._git, call, checkout)
        await git("-c", "init.defaultBranch=master", "init", "-q", ".")
        await git("remote", "add", "origin", self._wish.url)
        await git("-c", "protocol.file.allow=always", "fetch", "-q", "--depth=1", "--", store, self._commit)
        await git("checkout", "-q", "--detach", "FETCH_HEAD")
        if self._wish.submodules and (Path(checkout) / ".gitmodules").is_file():
            await git("submodule", "-q", "update", "--init", "--recursive", "--depth=1")

    # Calling git.

    @asynccontextmanager
    async def _call(self, context: Context) -> AsyncGenerator[_Call]:
        """What the client lends, for the time of some calls."""
        wish = self._wish
        options: list[str] = []
        env: list[tuple[str, str]] = []
        async with AsyncExitStack() as stack:
            header = await self._header(context)
            if header:
                # In the environment, since a command line can be read by everybody.
                env += [
                    ("GIT_CONFIG_COUNT", "1"),
                    ("GIT_CONFIG_KEY_0", f"http.{_site(wish.url)}.extraheader"),
                    ("GIT_CONFIG_VALUE_0", f"Authorization: {header}"),
                ]
            ssh = "ssh -F /dev/null -o BatchMode=yes"
            if wish.known_hosts or wish.agent:
                place = await stack.enter_async_context(
                    agents.private_directory(self._state / f"git-{os.urandom(8).hex()}")
                )
                if wish.known_hosts:
                    known = place / "known_hosts"
                    await aio.run(aio.DISK, known.write_text, wish.known_hosts)
                    ssh += f" -o UserKnownHostsFile={known}"
                if wish.agent:
                    await context.with_session(lambda session: session.check_agent(wish.agent))
                    socket = place / "agent"
                    lent = ops.SecretOptions(id=wish.agent, mode=0o600)
                    await stack.enter_async_context(agents.agent_socket(socket, context.sessions()[0], lent))
                    env.append(("SSH_AUTH_SOCK", str(socket)))
            if not wish.known_hosts:
                ssh += " -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
            env.append(("GIT_SSH_COMMAND", ssh))
            yield _Call(options=tuple(options), env=tuple(env))

    async def _header(self, context: Context) -> str:
        for secret, form in ((self._wish.header_secret, _plain), (self._wish.token_secret, _basic)):
            if secret:
                with suppress(NotFoundError):
                    return form(await context.with_session(partial(_secret, secret)))
        return ""

    async def _git(self, call: _Call, directory: str | None, *arguments: str) -> str:
        """Run git; its output. Raises `FailedPreconditionError` with its own words."""
        git = shutil.which("git")
        if git is None:
            raise UnsupportedError("git is not installed", hint="install the package git")
        if _over_ssh(self._wish.url) and shutil.which("ssh") is None:
            raise UnsupportedError("ssh is not installed", hint="install the package openssh-client")
        allowed = [f"protocol.{name}.allow=always" for name in _PROTOCOLS]
        settings = ["core.hooksPath=/dev/null", "protocol.allow=never", "credential.helper=", *allowed]
        settings += ["advice.detachedHead=false", "submodule.recurse=false", "safe.directory=*"]
        command = [git, *(part for one in settings for part in ("-c", one)), *call.options, *arguments]
        env = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_ASKPASS": "/bin/false",
            "HOME": "/dev/null",
            "LC_ALL": "C",
            **_proxies(os.environ),
            **dict(call.env),
        }
        process = await anyio.open_process(
            command,
            cwd=directory or "/",
            env=env,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            umask=0o022,
        )
        output, said = bytearray(), bytearray()
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(_read, process.stdout, output)
                group.start_soon(_read, process.stderr, said)
            code = await process.wait()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            with anyio.CancelScope(shield=True):
                await process.aclose()
        if code:
            message = said.decode("utf-8", "replace").strip()[-2000:]
            kind = (
                UnauthenticatedError
                if any(part in message for part in _AUTH_FAILURES)
                else FailedPreconditionError
            )
            raise kind(f"git {_verb(arguments)} failed: {message or code}", subject=_shown(self._wish.url))
        return output.decode("utf-8", "replace")


def _over_ssh(url: str) -> bool:
    return url.startswith("ssh://") or "://" not in url


def _verb(arguments: Sequence[str]) -> str:
    return next((one for one in arguments if one.isalpha()), "")


async def _read(stream: "anyio.abc.ByteReceiveStream | None", into: bytearray) -> None:
    if stream is not None:
        async for data in stream:
            into += data


async def _secret(id: str, session: Session) -> bytes:
    return await session.secret(id)


def _plain(data: bytes) -> str:
    return data.decode().strip()


def _basic(data: bytes) -> str:
    return f"basic {base64.b64encode(b'x-access-token:' + data.strip()).decode()}"


def _proxies(environment: Mapping[str, str]) -> dict[str, str]:
    names = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")
    return {name: value for name, value in environment.items() if name.lower() in names}


def _site(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/"


def _shown(url: str) -> str:
    """A URL without what may be a password."""
    parts = urllib.parse.urlsplit(url)
    return (
        urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        if parts.scheme
        else url
    )


def _wish(op: ops.SourceOp) -> _Wish:
    attrs = op.attrs
    location, _, fragment = op.identifier.partition("://")[2].partition("#")
    ref, _, subdir = fragment.partition(":")
    url = attrs.get("git.fullurl", "") or f"https://{location}"
    wish = _Wish(
        url=url,
        ref=ref,
        subdir="" if posixpath.normpath(subdir).strip("/") in ("", ".") else subdir,
        keep=attrs.get("git.keepgitdir", "") == "true",
        submodules=attrs.get("git.skipsubmodules", "") != "true",
        checksum=attrs.get("git.checksum", ""),
        token_secret=attrs.get("git.authtokensecret", ""),
        header_secret=attrs.get("git.authheadersecret", ""),
        known_hosts=attrs.get("git.knownsshhosts", ""),
        agent=attrs.get("git.mountsshsock", ""),
    )
    return replace(wish, url=_checked(url)) if not ref.startswith("-") else _refuse(ref)


def _refuse(ref: str) -> _Wish:
    raise InvalidArgumentError(f"invalid git ref {ref[:100]!r}", subject=ref[:100])


def _checked(url: str) -> str:
    scheme = url.partition("://")[0] if "://" in url else ""
    known = scheme in _PROTOCOLS or (not scheme and _SCP.fullmatch(url))
    if not known or url.startswith("-") or any(char.isspace() for char in url):
        raise InvalidArgumentError(
            f"invalid git URL {_shown(url)[:200]!r}", hint=f"use one of {', '.join(_PROTOCOLS)}"
        )
    return url


def _take(subdir: str, keep: bool, target: int, sources: Sequence[int]) -> None:
    """Copy what is wanted of a checkout."""
    whole = not subdir
    subdir = posixpath.normpath(f"/{subdir}").strip("/")
    try:
        source = paths.open_directory(sources[0], subdir)
    except OSError as exc:
        raise NotFoundError(f"subdirectory {subdir!r} is not in the repository", subject=subdir) from exc
    try:
        copying.copy_tree(source, target)
    finally:
        os.close(source)
    if not (keep and whole):
        _forget(target)


def _forget(directory: int) -> None:
    """Delete what is git's, in submodules too."""
    for name in os.listdir(directory):
        if name == ".git":
            paths.remove(directory, name)
            continue
        try:
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        except OSError:
            continue
        try:
            _forget(fd)
        finally:
            os.close(fd)
