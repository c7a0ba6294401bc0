"""Order of deletion, and ways through a `Graph`: pure functions."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lading.core.metadata import Graph, Node


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One link of the chain that keeps something. ``reason`` says why the first one is a root; it is empty further on."""

    node: Node
    reason: str = ""


def condemned_order(edges: Mapping[Node, Sequence[Node]], garbage: Iterable[Node]) -> list[Node]:
    """Garbage in the order in which it may be deleted: what refers to a snapshot goes before it."""
    rest = set(garbage)
    snapshots = sorted(node for node in rest if node.kind == "snapshot")
    waiting = dict.fromkeys(snapshots, 0)
    for node in snapshots:
        for parent in edges.get(node, ()):
            if parent in waiting:
                waiting[parent] += 1
    ready = deque(node for node in snapshots if not waiting[node])
    ordered: list[Node] = []
    while ready:
        node = ready.popleft()
        ordered.append(node)
        for parent in edges.get(node, ()):
            if parent in waiting:
                waiting[parent] -= 1
                if not waiting[parent]:
                    ready.append(parent)
    # Labels can make a circle of references; the database deletes what it can of it, and the next run the rest.
    ordered += sorted(set(snapshots).difference(ordered))
    first = sorted(node for node in rest if node.kind in ("image", "lease", "ingest", "container"))
    return [*first, *ordered, *sorted(rest.difference(first, ordered))]


def path_to(graph: Graph, wanted: Node) -> list[Step]:
    """A shortest chain from a root to ``wanted``; roots that are no leases are preferred."""
    if wanted not in graph.nodes:
        return []
    for lasting in (True, False):
        roots = [root for root in sorted(graph.roots) if (root.kind not in ("lease", "ingest")) is lasting]
        came: dict[Node, Node | None] = dict.fromkeys(roots)
        queue = deque(roots)
        while queue and wanted not in came:
            node = queue.popleft()
            for following in _edges(graph, node, came):
                came[following] = node
                queue.append(following)
        if wanted in came:
            return _chain(graph, came, wanted)
    return []


def _edges(graph: Graph, node: Node, came: Mapping[Node, Node | None]) -> list[Node]:
    """References that count and lead to something new. Behind a flat lease only parents of snapshots do."""
    edges = [one for one in dict.fromkeys(graph.edges.get(node, ())) if one not in came]
    if node in graph.flat:
        return edges
    source = node
    while (earlier := came[source]) is not None:
        source = earlier
    if source in graph.flat:
        return [one for one in edges if node.kind == one.kind == "snapshot" and node.scope == one.scope]
    return edges


def _chain(graph: Graph, came: Mapping[Node, Node | None], wanted: Node) -> list[Step]:
    chain: list[Step] = []
    node: Node | None = wanted
    while node is not None:
        earlier = came[node]
        chain.append(Step(node=node, reason=graph.roots.get(node, "") if earlier is None else ""))
        node = earlier
    return chain[::-1]
