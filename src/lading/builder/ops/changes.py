"""What operations on trees alone have in common: an operation of a graph with its bytes, by which it is known."""

from typing import Generic, TypeVar

from typing_extensions import override

from lading.builder.ops.trees import Tree, Trees
from lading.builder.solver.operation import Operation
from lading.formats.llb import ops

O = TypeVar("O", bound=ops.Op)  # noqa: E741 - an operation


class Change(Operation[Tree], Generic[O]):
    """Makes a tree of trees, without a client and without a process. Nothing of it outlives a run."""

    def __init__(self, raw: bytes, op: O, inputs: int, trees: Trees) -> None:
        self._raw = raw
        self._op = op
        self._inputs = inputs
        self._trees = trees

    @property
    @override
    def slots(self) -> int:
        return 1

    @override
    def close(self) -> None:
        return
