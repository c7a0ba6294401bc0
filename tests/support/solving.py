"""Operations that count, and a cache in memory: for tests of the scheduler, which knows no more of the world."""

import itertools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import anyio

from lading.builder.solver.keys import Found, Link
from lading.builder.solver.operation import CacheMap, Context, Dependency
from lading.errors import InvalidArgumentError
from lading.oci.digest import Digest


@dataclass(frozen=True)
class Value:
    """A result: what it holds decides its content digest."""

    content: str


@dataclass
class World:
    """What happened."""

    ran: list[str] = field(default_factory=list)
    """Names of operations, each time that one ran to its end."""
    running: int = 0
    most: int = 0
    closed: list[str] = field(default_factory=list)
    gates: dict[str, anyio.Event] = field(default_factory=dict)
    """Operations of these names wait here."""
    failing: set[str] = field(default_factory=set)


class Work:
    """An operation that makes a value of its inputs'. ``key`` is what it is known by, ``function`` what it makes."""

    def __init__(
        self,
        world: World,
        name: str,
        *,
        key: str = "",
        function: Callable[[Sequence[str]], str] | None = None,
        by_content: Sequence[bool] = (),
        volatile: bool = False,
        slots: int = 1,
    ) -> None:
        self.world = world
        self.name = name
        self.key = key or name
        self.slots = slots
        self._function = function or (lambda inputs: f"{self.key}({','.join(inputs)})")
        self._by_content = by_content
        self._volatile = volatile

    async def cache_map(self, context: Context) -> CacheMap[Value]:
        async def content(value: Value) -> Digest:
            return Digest.of(value.content.encode())

        dependencies = tuple(Dependency(content=content if each else None) for each in self._by_content)
        return CacheMap(
            digests=(Digest.of(self.key.encode()),), dependencies=dependencies, volatile=self._volatile
        )

    async def run(self, inputs: Sequence[Value], context: Context) -> list[Value]:
        self.world.running += 1
        self.world.most = max(self.world.most, self.world.running)
        try:
            gate = self.world.gates.get(self.name)
            if gate is not None:
                await gate.wait()
            await anyio.lowlevel.checkpoint()
            if self.name in self.world.failing:
                raise InvalidArgumentError(f"{self.name} fails")
            self.world.ran.append(self.name)
            return [Value(self._function([one.content for one in inputs]))]
        finally:
            self.world.running -= 1

    def close(self) -> None:
        self.world.closed.append(self.name)


class MemoryRecorder:
    """`Recorder` in dictionaries."""

    def __init__(self) -> None:
        self.links: dict[tuple[str, str, int, str], set[str]] = {}
        self.records: dict[str, tuple[int, Value]] = {}
        self.by_key: dict[str, str] = {}
        self._numbers = itertools.count(1)

    async def find(self, output: Digest, inputs: Sequence[Sequence[Link]]) -> Found:
        keys: set[str] | None = None if inputs else {output}
        for number, links in enumerate(inputs):
            reached = set[str]().union(
                *(self.links.get((one.key, output, number, one.selector), set()) for one in links)
            )
            keys = reached if keys is None else keys & reached
        found = [self.by_key[key] for key in keys or () if key in self.by_key]
        newest = max(found, key=lambda record: self.records[record][0], default=None)
        return Found(keys=frozenset(keys or ()), record=newest)

    async def load(self, record: str) -> Value | None:
        found = self.records.get(record)
        return found[1] if found else None

    async def save(
        self,
        output: Digest,
        inputs: Sequence[Sequence[Link]],
        result: Value,
        *,
        keys: frozenset[str],
        vertex: Digest,
        name: str,
    ) -> Found:
        number = next(self._numbers)
        keys = keys or frozenset({f"key-{number}"})
        record = f"record-{number}"
        self.records[record] = (number, result)
        for key in keys:
            self.by_key[key] = record
        await self.connect(output, inputs, keys)
        return Found(keys=keys, record=record)

    async def connect(self, output: Digest, inputs: Sequence[Sequence[Link]], keys: frozenset[str]) -> None:
        for number, links in enumerate(inputs):
            for link in links:
                self.links.setdefault((link.key, output, number, link.selector), set()).update(keys)


class Silent:
    """A build's progress that nobody watches, and what was told."""

    def __init__(self) -> None:
        self.events: list[object] = []

    def tell(self, event: object) -> None:
        self.events.append(event)


def together(*calls: Callable[[], Awaitable[object]]) -> "Awaitable[None]":
    """Do several things at once."""

    async def run() -> None:
        async with anyio.create_task_group() as group:
            for call in calls:
                group.start_soon(call)

    return run()
