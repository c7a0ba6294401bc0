"""``https://``: one file, fetched once. The server's word that it has not changed saves the download.

At the host ``buildkit-session`` is what the build's client reads from its standard input: ``docker build - <context.tar``.
"""

import email.utils
import hashlib
import posixpath
import re
import time
import urllib.parse
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import aiohttp
import anyio
import msgspec
from typing_extensions import override

from lading.builder.ops import contents
from lading.builder.ops.files import single
from lading.builder.ops.trees import NOTHING, Tree, Trees
from lading.builder.solver.operation import CacheMap, Context, Operation
from lading.core.session import Session
from lading.core.snapshots import SnapshotName
from lading.errors import (
    DataLossError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)
from lading.formats.llb import ops
from lading.kit import aio, fs
from lading.oci.digest import Digest

MAX_BYTES: Final = 64 << 30
"""Most bytes of one file."""
_CHUNK: Final = 1 << 20
_SHOW_SECONDS: Final = 0.2
_CONNECT_SECONDS: Final = 30
_IDLE_SECONDS: Final = 120
_REDIRECTS: Final = 10
_FIELD_BYTES: Final = 1 << 20
"""Most bytes of one field of a reply's head."""
_GZIP: Final = 31
"""zlib's word for it."""
_NAME: Final = re.compile(r'filename="?([^";]+)"?')
_CLIENT: Final = "buildkit-session"
"""The host that is no host, but the client (BuildKit, session/upload)."""
_HEADERS: Final = frozenset({"accept", "user-agent"})
"""What a definition may ask to be sent (BuildKit, source/http)."""


class Known(msgspec.Struct, frozen=True):
    """What is remembered of a URL: what the server said of it, and what it was."""

    etag: str
    modified: str
    digest: str
    name: str
    snapshot: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """How the file is wanted."""

    url: str
    checksum: str
    filename: str
    mode: int
    """0 if none is asked for."""
    uid: int
    gid: int
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """A file on its way. ``total`` is 0 if nobody says how long it is."""

    chunks: AsyncIterator[bytes]
    name: str
    total: int = 0
    etag: str = ""
    modified: str = ""


class WebOperation(Operation[Tree]):
    """A file from a web server. ``memory`` outlives builds: what is known of each URL."""

    def __init__(
        self,
        op: ops.SourceOp,
        trees: Trees,
        memory: dict[str, Known],
        *,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._wish = _wish(op)
        self._trees = trees
        self._memory = memory
        self._max_bytes = max_bytes
        self._known: Known | None = None
        self._tree: Tree | None = None

    @property
    @override
    def slots(self) -> int:
        return 0

    @override
    def close(self) -> None:
        return

    @override
    async def cache_map(self, context: Context) -> CacheMap[Tree]:
        wish = self._wish
        if wish.checksum:
            name = wish.filename or _name_in(wish.url)
            return self._known_by(wish.checksum, name, "")
        known = await self._fetch(context)
        return self._known_by(known.digest, known.name, known.modified)

    def _known_by(self, digest: str, name: str, modified: str) -> CacheMap[Tree]:
        wish = self._wish
        return contents.of_download(
            name,
            digest,
            mode=wish.mode,
            uid=wish.uid,
            gid=wish.gid,
            modified=modified,
            headers=wish.headers,
        )

    @override
    async def run(self, inputs: Sequence[Tree], context: Context) -> list[Tree]:
        if self._tree is None:
            await self._fetch(context)
        assert self._tree is not None
        return [self._tree]

    async def _fetch(self, context: Context) -> Known:
        """The file as a tree, and what is known of it."""
        wish = self._wish
        if urllib.parse.urlsplit(wish.url).hostname == _CLIENT:
            return await context.with_session(lambda session: self._uploaded(session, context))
        memory = await self._remembered()
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_IDLE_SECONDS)
        headers = {"Accept-Encoding": "gzip", **wish.headers}
        if memory is not None:
            if memory.etag:
                headers["If-None-Match"] = memory.etag
            elif memory.modified:
                headers["If-Modified-Since"] = memory.modified
        try:
            async with (
                aiohttp.ClientSession(
                    timeout=timeout, auto_decompress=False, trust_env=True, max_field_size=_FIELD_BYTES
                ) as client,
                client.get(
                    wish.url, headers=headers, max_redirects=_REDIRECTS, allow_redirects=True
                ) as reply,
            ):
                if reply.status == 304 and memory is not None:
                    return memory
                _check(reply.status, wish.url)
                known = await self._receive(_answer(reply, wish.url), context)
        except aiohttp.TooManyRedirects as exc:
            raise UnavailableError(
                f"cannot fetch {_shown(wish.url)}: stopped after {_REDIRECTS} redirects"
            ) from exc
        except zlib.error as exc:
            raise DataLossError(f"cannot fetch {_shown(wish.url)}: what comes is no gzip: {exc}") from exc
        except (aiohttp.ClientError, TimeoutError) as exc:
            raise UnavailableError(f"cannot fetch {_shown(wish.url)}: {exc or type(exc).__name__}") from exc
        self._memory[self._memory_key()] = known
        return known

    async def _uploaded(self, session: Session, context: Context) -> Known:
        """What the client sends; once, so that there is nothing to remember."""
        path = urllib.parse.urlsplit(self._wish.url).path
        answer = _Answer(chunks=session.upload(path, _CLIENT), name=_name_in(path))
        return await self._receive(answer, context)

    def _memory_key(self) -> str:
        wish = self._wish
        return contents.of_words(wish.url, wish.filename, wish.mode, wish.uid, wish.gid, dict(wish.headers))

    async def _remembered(self) -> Known | None:
        """What is remembered, if the file is still there."""
        known = self._memory.get(self._memory_key())
        if known is None or (self._wish.checksum and known.digest != self._wish.checksum):
            return None
        try:
            await self._trees.snapshotter.stat(known.snapshot)
        except NotFoundError:
            return None
        name = SnapshotName(known.snapshot)
        self._tree = Tree(layers=(name,), top=name, own=(name,))
        return known

    async def _receive(self, answer: _Answer, context: Context) -> Known:
        wish = self._wish
        name = wish.filename or answer.name
        if answer.total > self._max_bytes:
            raise ResourceExhaustedError(
                f"{_shown(wish.url)} has {answer.total} bytes, more than {self._max_bytes}"
            )
        async with self._trees.active(NOTHING) as active:
            async with self._trees.mounted_at(active.mounts) as path:
                with fs.explained(f"cannot keep {_shown(wish.url)}"):
                    digest = await self._write(path, name, answer, context)
            if wish.checksum and digest != wish.checksum:
                raise DataLossError(
                    f"digest mismatch {digest}: {wish.checksum}", hint="the file is not the expected one"
                )
            snapshot = await active.commit()
        self._tree = Tree(layers=(snapshot,), top=snapshot, own=(snapshot,))
        return Known(etag=answer.etag, modified=answer.modified, digest=digest, name=name, snapshot=snapshot)

    async def _write(self, path: str, name: str, answer: _Answer, context: Context) -> str:
        """Write the file; its digest."""
        wish = self._wish
        writer = await aio.run(aio.DISK, single.Writer, path, name)
        try:
            digest = await self._pump(answer, writer, context)
            time_ns = _time(answer.modified)
            mode = wish.mode or 0o600
            await aio.run(aio.DISK, writer.finish, mode=mode, uid=wish.uid, gid=wish.gid, time=time_ns)
        finally:
            await aio.run(aio.DISK, writer.close)
        return digest

    async def _pump(self, answer: _Answer, writer: single.Writer, context: Context) -> str:
        algorithm = self._wish.checksum.partition(":")[0] or "sha256"
        hasher = hashlib.new(algorithm, usedforsecurity=False)
        done, shown = 0, 0.0
        async for chunk in answer.chunks:
            done += len(chunk)
            if done > self._max_bytes:
                raise ResourceExhaustedError(
                    f"{_shown(self._wish.url)} has more than {self._max_bytes} bytes"
                )
            hasher.update(chunk)
            await aio.run(aio.DATA, writer.write, chunk)
            if anyio.current_time() - shown > _SHOW_SECONDS:
                shown = anyio.current_time()
                context.status(_shown(self._wish.url), current=done, total=answer.total)
        context.status(_shown(self._wish.url), current=done, total=answer.total, completed=time.time_ns())
        return f"{algorithm}:{hasher.hexdigest()}"


def _wish(op: ops.SourceOp) -> _Wish:
    attrs = op.attrs
    try:
        urllib.parse.urlsplit(op.identifier)
    except ValueError as exc:
        raise InvalidArgumentError(f"malformed address {op.identifier[:200]!r}: {exc}") from exc
    mode = attrs.get("http.perm", "") or "0"
    checksum = attrs.get("http.checksum", "")
    if checksum:
        Digest(checksum)
    try:
        numbers = int(mode, 0) if mode.startswith("0x") else int(mode, 8)
        uid, gid = (_id(attrs.get(f"http.{name}", "")) for name in ("uid", "gid"))
    except ValueError as exc:
        raise InvalidArgumentError(f"malformed attribute of {_shown(op.identifier)}: {exc}") from exc
    headers = {
        name.removeprefix("http.header."): value
        for name, value in attrs.items()
        if name.startswith("http.header.")
    }
    for name, value in headers.items():
        if name not in _HEADERS or not value.isprintable():
            raise InvalidArgumentError(f"http header {name!r} may not be set to {value[:200]!r}")
    filename = posixpath.basename(attrs.get("http.filename", ""))
    if filename in (".", "..") or "\0" in filename:
        raise InvalidArgumentError(f"{_shown(op.identifier)} cannot have the name {filename!r}")
    return _Wish(
        url=op.identifier,
        checksum=checksum,
        filename=filename,
        mode=numbers & 0o7777,
        uid=uid,
        gid=gid,
        headers=headers,
    )


def _id(text: str) -> int:
    found = int(text or "0")
    if not 0 <= found < 1 << 32:
        raise ValueError(f"no user has the ID {found}")
    return found


def _check(status: int, url: str) -> None:
    if 200 <= status < 300:
        return
    message = f"invalid response status {status} from {_shown(url)}"
    if status in (404, 410):
        raise NotFoundError(message, subject=_shown(url))
    if status >= 500 or status == 429:
        raise UnavailableError(message, subject=_shown(url))
    raise FailedPreconditionError(message, subject=_shown(url))


def _shown(url: str) -> str:
    """A URL without what may be a password."""
    parts = urllib.parse.urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urllib.parse.urlunsplit((parts.scheme, host, parts.path, "", ""))


def _answer(reply: aiohttp.ClientResponse, url: str) -> _Answer:
    chunks = aiter(reply.content.iter_chunked(_CHUNK))
    packed = reply.headers.get("Content-Encoding", "").lower() == "gzip"
    return _Answer(
        chunks=_unpacked(chunks) if packed else chunks,
        name=_name(reply, url),
        total=0 if packed else reply.content_length or 0,
        etag=reply.headers.get("ETag", ""),
        modified=reply.headers.get("Last-Modified", ""),
    )


async def _unpacked(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """The file out of the gzip in which a server packs it for the way, as Go's client has it. Raises `zlib.error`."""
    engine, begun = zlib.decompressobj(_GZIP), False
    async for chunk in chunks:
        while chunk:
            if engine.eof:
                engine = zlib.decompressobj(_GZIP)
            begun = True
            if data := await aio.run(aio.DATA, engine.decompress, chunk, _CHUNK):
                yield data
            chunk = engine.unused_data if engine.eof else engine.unconsumed_tail  # noqa: PLW2901 -- its rest
    if begun and not engine.eof:
        raise zlib.error("it breaks off")


def _name(reply: aiohttp.ClientResponse, url: str) -> str:
    """What the file is called; not after where a redirection leads (BuildKit, source/http)."""
    match = _NAME.search(reply.headers.get("Content-Disposition", ""))
    name = posixpath.basename(match[1]) if match else ""
    return name if name not in ("", ".", "..") else _name_in(url)


def _name_in(url: str) -> str:
    path = urllib.parse.unquote(urllib.parse.urlsplit(url).path)
    name = posixpath.basename(path)
    return "download" if name in ("", ".", "..") or "\0" in name else name


def _time(modified: str) -> int | None:
    """Nanoseconds since the epoch of a Last-Modified header; BuildKit gives files without one the epoch."""
    try:
        return round(email.utils.parsedate_to_datetime(modified).timestamp()) * 10**9
    except (TypeError, ValueError):
        return 0
