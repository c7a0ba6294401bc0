"""The mark: pure functions over a `Graph`."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lading.core.metadata import Graph, Node, reachable


@dataclass(frozen=True, slots=True, kw_only=True)
class Garbage:
    """What no root leads to."""

    nodes: frozenset[Node]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One link of the chain that keeps something. ``reason`` says why the first one is a root; it is empty further on."""

    node: Node
    reason: str = ""


def mark(graph: Graph) -> Garbage:
    """Nodes that are garbage. Time and memory are linear in nodes and edges."""
    alive = reachable((root for root in graph.roots if root not in graph.flat), graph.edges)
    flat = [root for root in graph.roots if root in graph.flat]
    held = {node for root in flat for node in graph.edges.get(root, ())}
    alive.update(held, flat, _parents(held, graph.edges))
    # Node by node, because one operation on whole sets would keep every other thread waiting for its end.
    return Garbage(nodes=frozenset(node for node in graph.nodes if node not in alive))


def _parents(held: set[Node], edges: Mapping[Node, Sequence[Node]]) -> set[Node]:
    """What snapshots of a flat lease stand on: without it they could not be used."""
    seen = {node for node in held if node.kind == "snapshot"}
    stack = list(seen)
    while stack:
        snapshot = stack.pop()
        for node in edges.get(snapshot, ()):
            if node.kind == "snapshot" and node.scope == snapshot.scope and node not in seen:
                seen.add(node)
                stack.append(node)
    return seen


def condemned_order(graph: Graph, garbage: Iterable[Node]) -> list[Node]:
    """Garbage in the order in which it may be deleted: what refers to a snapshot goes before it."""
    rest = set(garbage)
    snapshots = sorted(node for node in rest if node.kind == "snapshot")
    waiting = dict.fromkeys(snapshots, 0)
    for node in snapshots:
        for parent in graph.edges.get(node, ()):
            if parent in waiting:
                waiting[parent] += 1
    ready = deque(node for node in snapshots if not waiting[node])
    ordered: list[Node] = []
    while ready:
        node = ready.popleft()
        ordered.append(node)
        for parent in graph.edges.get(node, ()):
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
