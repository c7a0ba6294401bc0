"""`FileOp`: actions on snapshots, several on one where nobody asks for what is in between."""

import threading
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from typing_extensions import override

from lading.builder.ops import contents
from lading.builder.ops.changes import Change
from lading.builder.ops.files import actions
from lading.builder.ops.trees import NOTHING, Tree, Trees
from lading.builder.solver.operation import CacheMap, Context
from lading.core.mounts import Mount
from lading.errors import InvalidArgumentError
from lading.formats.llb import ops
from lading.kit import fs


@dataclass(slots=True)
class _Group:
    """Actions on one snapshot that is being made."""

    base: Tree
    actions: list[ops.FileAction] = field(default_factory=list[ops.FileAction])


class FileOperation(Change[ops.FileOp]):
    """Changes of files without a process."""

    def __init__(
        self, raw: bytes, op: ops.FileOp, inputs: int, trees: Trees, hasher: contents.Contents
    ) -> None:
        super().__init__(raw, op, inputs, trees)
        self._hasher = hasher

    @override
    async def cache_map(self, context: Context) -> CacheMap[Tree]:
        return contents.of_file(self._raw, self._op, self._inputs, self._hasher)

    @override
    async def run(self, inputs: Sequence[Tree], context: Context) -> list[Tree]:
        with fs.explained("cannot change files"):
            return await _Run(self._op, inputs, self._trees).outputs()


class _Run:
    """One run. A place is an input, or the result of an action, numbered on from the inputs."""

    def __init__(self, op: ops.FileOp, inputs: Sequence[Tree], trees: Trees) -> None:
        self._op = op
        self._trees = trees
        self._inputs = len(inputs)
        self._done: dict[int, Tree] = dict(enumerate(inputs))
        self._open: dict[int, _Group] = {}
        self._stop = threading.Event()

    async def outputs(self) -> list[Tree]:
        found: dict[int, Tree] = {}
        for number, action in enumerate(self._op.actions):
            place = self._inputs + number
            if action.secondary is not None:
                await self._close(action.secondary)
            group = self._take(action.input)
            if group is None:
                group = _Group(await self._close(action.input))
            group.actions.append(action)
            self._open[place] = group
            if action.output is not None:
                found[action.output] = await self._close(place)
        return [found[number] for number in sorted(found)]

    def _take(self, place: int | None) -> _Group | None:
        """The group of an earlier action, if this one is the only one that builds on it."""
        if place is None or place not in self._open:
            return None
        users = [
            one for one in self._op.actions if place in (one.input, one.secondary) or self._names(one, place)
        ]
        return self._open.pop(place) if len(users) == 1 and users[0].input == place else None

    @staticmethod
    def _names(action: ops.FileAction, place: int) -> bool:
        owner = None if isinstance(action.action, ops.Remove) else action.action.owner
        names = (owner.user, owner.group) if owner is not None else ()
        return any(isinstance(one, ops.NamedUser) and one.input == place for one in names)

    async def _close(self, place: int | None) -> Tree:
        if place is None:
            return NOTHING
        if place in self._open:
            self._done[place] = await self._perform(self._open.pop(place))
        if place not in self._done:
            raise InvalidArgumentError(f"a file action uses input {place}, which does not exist")
        return self._done[place]

    async def _perform(self, group: _Group) -> Tree:
        wanted = {one.secondary for one in group.actions if one.secondary is not None}
        for one in group.actions:
            owner = None if isinstance(one.action, ops.Remove) else one.action.owner
            names = (owner.user, owner.group) if owner is not None else ()
            wanted |= {n.input for n in names if isinstance(n, ops.NamedUser) and n.input is not None}
        places = sorted(wanted)
        async with AsyncExitStack() as stack:
            active = await stack.enter_async_context(self._trees.active(group.base))
            mounts: list[list[Mount]] = [
                await stack.enter_async_context(self._trees.shown(await self._close(place)))
                for place in places
            ]
            filled = {place for place, mount in zip(places, mounts, strict=True) if mount}

            def work(root: int, roots: Sequence[int]) -> None:
                by_place = {place: fd for place, fd in zip(places, roots, strict=True) if place in filled}
                for one in group.actions:
                    source = by_place.get(one.secondary) if one.secondary is not None else None
                    actions.perform(
                        one.action,
                        root,
                        source,
                        lambda place: by_place.get(place) if place is not None else None,
                        self._stop.is_set,
                    )

            await self._trees.work(active.mounts, mounts, work, stop=self._stop)
            name = await active.commit()
        return group.base.below(name, active.parent)
