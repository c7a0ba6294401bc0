"""``local://``: a directory of the client, synchronised into one of ours, which later builds of the same client start from."""

import time
from collections.abc import Sequence
from functools import partial
from typing import Final

import msgspec
from typing_extensions import override

from lading.builder.ops import contents
from lading.builder.ops.mutables import Mutable, Mutables, Sharing
from lading.builder.ops.trees import Folder, Tree
from lading.builder.solver.operation import CacheMap, Context, Operation
from lading.core.session import Session, SyncWish
from lading.errors import InvalidArgumentError
from lading.formats.llb import ops

KIND: Final = "source.local"
_EVERY: Final = 100_000_000
"""Nanoseconds between two times that a client is told how far a transfer is."""


class LocalOperation(Operation[Tree]):
    """The files that are wanted now, whatever was there before; known by their content alone."""

    def __init__(self, op: ops.SourceOp, mutables: Mutables, name: str) -> None:
        self._name = op.identifier.partition("://")[2]
        self._attrs = op.attrs
        self._mutables = mutables
        self._shown = name
        self._held: Mutable | None = None

    @property
    @override
    def slots(self) -> int:
        return 0

    @override
    async def cache_map(self, context: Context) -> CacheMap[Tree]:
        return CacheMap(digests=(contents.of_words("local", context.vertex),), volatile=True)

    @override
    async def run(self, inputs: Sequence[Tree], context: Context) -> list[Tree]:
        wanted = self._attrs.get("local.session", "")
        sessions = [one for one in context.sessions() if not wanted or one.id == wanted]
        session = sessions[0] if sessions else None
        if session is None:
            return [await context.with_session(partial(self._sync, _Transfer(self._name, context)))]
        return [await self._sync(_Transfer(self._name, context), session)]

    async def _sync(self, transfer: "_Transfer", session: Session) -> Tree:
        wish = SyncWish(
            name=self._name,
            include=self._patterns("local.includepattern"),
            exclude=self._patterns("local.excludepatterns"),
            follow=self._patterns("local.followpaths"),
        )
        hint = self._attrs.get("local.sharedkeyhint", self._name)
        place = f"{self._name}:{hint}:{session.shared_key}"
        if self._held is None:
            self._held = await self._mutables.take(
                KIND, place, sharing=Sharing.PRIVATE, description=f"local source for {self._name}"
            )
        held = self._held
        path = held.mounts[0].source
        memory = self._mutables.memory(held)
        changed = True
        try:
            changed = (await session.sync(wish, path, told=transfer.told, memory=memory)).changed
            transfer.end()
        finally:
            if changed:
                self._mutables.changed(held)
        return Tree(folder=Folder(path=path, key=held.key, version=self._mutables.version(held)))

    def _patterns(self, name: str) -> tuple[str, ...]:
        text = self._attrs.get(name, "")
        if not text:
            return ()
        try:
            return tuple(msgspec.json.decode(text, type=list[str] | None) or ())
        except (msgspec.DecodeError, RecursionError) as exc:
            raise InvalidArgumentError(f"{name} is no JSON list of texts: {text[:80]!r}") from exc

    @override
    def close(self) -> None:
        if self._held is not None:
            self._mutables.release(self._held)
            self._held = None


class _Transfer:
    """Tells clients how many bytes have come, as BuildKit does."""

    def __init__(self, name: str, context: Context) -> None:
        self._id = f"transferring {name}:"
        self._context = context
        self._started = self._last = time.time_ns()
        self._bytes = 0

    def told(self, count: int) -> None:
        """So many bytes have come so far. Called from data threads."""
        self._bytes = count
        now = time.time_ns()
        if now - self._last >= _EVERY:
            self._last = now
            self._context.status(self._id, current=count, started=self._started)

    def end(self) -> None:
        """All is here."""
        self._context.status(self._id, current=self._bytes, started=self._started, completed=time.time_ns())
