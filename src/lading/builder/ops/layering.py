"""`MergeOp` and `DiffOp`: trees as stacks of differences, put together and taken apart. No file is touched where that can do."""

from collections.abc import Sequence
from typing import Final

from typing_extensions import override

from lading.builder.ops import contents, difference
from lading.builder.ops.changes import Change
from lading.builder.ops.trees import NOTHING, Tree
from lading.builder.solver.operation import CacheMap, Context
from lading.errors import ResourceExhaustedError
from lading.formats.llb import ops

MERGE_LIMIT: Final = 10_000
"""Layers of the trees that are laid over each other."""


class MergeOperation(Change[ops.MergeOp]):
    """Trees laid over each other."""

    @property
    @override
    def slots(self) -> int:
        return 0

    @override
    async def cache_map(self, context: Context) -> CacheMap[Tree]:
        return contents.of_merge(self._raw, self._inputs)

    @override
    async def run(self, inputs: Sequence[Tree], context: Context) -> list[Tree]:
        parts = [await self._as_layers(inputs[number]) for number in self._op.inputs]
        parts = [part for part in parts if part.layers]
        if len(parts) == 1:
            return parts
        if sum(len(part.layers) for part in parts) > MERGE_LIMIT:  # merges of merges double each other
            raise ResourceExhaustedError(f"a merge has over {MERGE_LIMIT} layers")
        layers = [layer for part in parts for layer in part.layers]
        bases = [part.base for part in parts if part.base is not None]
        for base in bases[1:] if parts and parts[0].base is not None else bases:
            await base.bring()
        blobs = tuple(dict.fromkeys(blob for part in parts for blob in part.blobs))
        base = parts[0].base if parts else None
        return [Tree(layers=tuple(layers), base=base, blobs=blobs)]

    async def _as_layers(self, tree: Tree) -> Tree:
        if tree.folder is None:
            return tree
        name = await self._trees.snapshot(tree)
        return NOTHING.below(name, None) if name is not None else NOTHING


class DiffOperation(Change[ops.DiffOp]):
    """What one tree has over another."""

    @override
    async def cache_map(self, context: Context) -> CacheMap[Tree]:
        return contents.of_diff(self._raw, self._inputs)

    @override
    async def run(self, inputs: Sequence[Tree], context: Context) -> list[Tree]:
        lower = NOTHING if self._op.lower is None else inputs[self._op.lower]
        upper = NOTHING if self._op.upper is None else inputs[self._op.upper]
        if lower.empty:
            return [upper]
        if lower.folder is None and upper.folder is None:
            count = len(lower.layers)
            if upper.layers[:count] == lower.layers:
                if upper.base is not None:
                    await upper.base.bring()
                return [Tree(layers=upper.layers[count:], blobs=upper.blobs)]
        made = await difference.between(self._trees, lower, upper)
        return [NOTHING.below(made, None)]
