"""What the documentation says about tests is true."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "hostile-input.md"
LATER = {"D20", "R12", "R13", "A8"}
"""Rows about what does not exist yet."""


def rows() -> dict[str, list[str]]:
    """Row to its cells."""
    lines = PAGE.read_text().splitlines()
    tables = [line.strip("|").split("|") for line in lines if re.match(r"\| [TDRAX]\d+ \|", line)]
    return {cells[0].strip(): [cell.strip() for cell in cells] for cells in tables}


COMPATIBILITY = ROOT / "docs" / "reference" / "compatibility.md"
FEATURES = 73


STORES = ("containerd", "classic")


Function = ast.FunctionDef | ast.AsyncFunctionDef


class Proof:
    """What the source of a test says about it: its marks, and what it and the helpers of its module do."""

    def __init__(self, named: str) -> None:
        file, _, self.name = named.partition("[")[0].partition("::")
        self.text = (ROOT / "tests" / file).read_text()
        tree = ast.parse(self.text)
        self.functions = {node.name: node for node in ast.walk(tree) if isinstance(node, Function)}
        self.function = self.functions[self.name]
        own = list(self.function.decorator_list)
        module = [
            node.value
            for node in tree.body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark"
        ]
        self.marked = [mark for each in own + module for mark in marks(each)]
        """Not the marks of single parameters."""

    @property
    def marks(self) -> set[str]:
        return {mark.func.attr if isinstance(mark, ast.Call) else mark.attr for mark in self.marked}  # type: ignore[attr-defined]

    @property
    def stores(self) -> set[str]:
        """The image stores over which it runs, by its marks."""
        calls = [mark for mark in self.marked if isinstance(mark, ast.Call) and mark.func.attr == "stores"]  # type: ignore[attr-defined]
        return {arg.value for arg in calls[0].args} if calls else {"containerd"}  # type: ignore[attr-defined]

    @property
    def sees_to_stores_itself(self) -> bool:
        return any("itself" in ast.unparse(mark) for mark in self.marked)

    @property
    def arguments(self) -> set[str]:
        """Its fixtures, and theirs as far as they are in its module."""
        found: set[str] = set()
        pending = [self.function]
        while pending:
            names = {each.arg for each in pending.pop().args.args} - found
            found |= names
            pending += [self.functions[name] for name in names & self.functions.keys()]
        return found

    @property
    def reached(self) -> str:
        """Its source with that of everything of its module that it leads to."""
        found: dict[str, str] = {}
        pending = {self.name} | (self.arguments & self.functions.keys())
        while pending:
            name = pending.pop()
            node = self.functions[name]
            found[name] = ast.unparse(node)
            called = {
                each.func.id if isinstance(each.func, ast.Name) else each.func.attr
                for each in ast.walk(node)
                if isinstance(each, ast.Call) and isinstance(each.func, ast.Name | ast.Attribute)
            }
            pending |= (called & self.functions.keys()) - found.keys()
        return "\n".join(found.values())

    def weakness(self) -> str:
        """Why it proves nothing through a real client on every run of the suite, or nothing."""
        if "e2e" not in self.marks:
            return "is not end to end"
        if self.marks & {"nightly", "skip", "xfail"}:
            return "does not run each time"
        if not re.search(r"\bassert\b|pytest\.raises", self.reached):
            return "asserts nothing"
        if not _DOCKER.search(self.reached):
            return "uses no docker command"
        if len(self.stores) == 1 or self.sees_to_stores_itself:
            return (
                ""
                if self.stores <= {"containerd"} or re.search("overlay2|classic", self.text)
                else "no store"
            )
        if not self.arguments & {"daemon", "shared_daemon"} and "overlay2" not in self.text:
            return "has no daemon of either store"
        return ""


def marks(node: ast.expr) -> list[ast.expr]:
    """The ``pytest.mark`` expressions of a decorator or of a list of them."""
    if isinstance(node, ast.List):
        return [mark for each in node.elts for mark in marks(each)]
    return [node] if ast.unparse(node).startswith("pytest.mark.") else []


_DOCKER = re.compile(r"\.docker\(|\bdaemon\.run\(|'docker'|\bboxed\(|\bengine\b|\bbuild\(")
"""How tests come to the command: themselves, or through helpers that run it."""
IN_ADDITION = {
    "crash/test_pull.py::test_a_killed_pull_resumes_and_an_acknowledged_one_stays": "is not end to end",
    "e2e/test_legacy_builder.py::test_a_request_that_cannot_be_honoured_is_refused_by_name": "uses no docker command",
    "e2e/test_transfer.py::test_skopeo_reads_what_is_saved": "uses no docker command",
    "e2e/test_transfer.py::test_what_skopeo_writes_is_loaded": "uses no docker command",
}
"""Proofs that another tool or none carries; they stand beside a client's, or tell that something is refused."""


def features() -> dict[int, list[str]]:
    """Row of the compatibility table to its cells: feature, status over each store, proof and remarks."""
    lines = COMPATIBILITY.read_text().splitlines()
    tables = [line.strip().strip("|").split("|") for line in lines if re.match(r"\| \d+ \|", line)]
    return {int(cells[0]): [cell.strip() for cell in cells[1:]] for cells in tables}


def proofs(cell: str) -> list[str]:
    return re.findall(r"`([^`]*::[^`]*)`", cell)


def problem(named: str) -> str | None:
    """What is wrong with ``file::test`` or ``file::test[case]``; None if it exists."""
    match = re.fullmatch(r"([\w/.]+)::(\w+)(?:\[(.*)\])?", named)
    if match is None:
        return f"{named} is no test"
    file = ROOT / "tests" / ("e2e/test_hostile.py" if match[1] == "hostile" else match[1])
    if not file.is_file():
        return f"{named}: no such file"
    text = file.read_text()
    functions = {
        node.name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    if match[2] not in functions:
        return f"{named}: no such test"
    if match[3] is not None and f'"{match[3]}": (' not in text:
        return f"{named}: no such case"
    return None


def test_every_row_of_hostile_input_has_an_attack_and_a_twin() -> None:
    found = rows()
    expected = [
        f"{letter}{n}"
        for letter, last in (("T", 26), ("D", 20), ("R", 13), ("A", 10), ("X", 10))
        for n in range(1, last + 1)
    ]
    assert list(found) == expected
    for row, cells in found.items():
        assert len(cells) == 5, row
        if row in LATER:
            assert cells[3:] == ["later", "later"], row
        else:
            assert all("::" in cell for cell in cells[3:]), row


def test_every_test_that_is_named_exists() -> None:
    named = [name for cells in rows().values() for name in re.findall(r"`([^`]*::[^`]*)`", " ".join(cells))]
    assert len(named) > 150
    assert [each for each in map(problem, named) if each] == []


def test_every_feature_has_a_status_and_what_works_has_a_proof() -> None:
    found = features()
    assert list(found) == list(range(1, FEATURES + 1))
    for number, (feature, *statuses, proof) in found.items():
        assert feature, number
        for store, status in zip(STORES, statuses, strict=True):
            assert status in ("yes", "partly", "no", "–"), number
            if status in ("yes", "partly"):
                assert proofs(proof), number
            if status == "no":
                assert proof, number
            if status in ("yes", "partly"):  # through an unmodified client
                clients = [Proof(name) for name in proofs(proof) if name.startswith(("e2e/", "crash/"))]
                assert any(store in each.stores and not each.weakness() for each in clients), (
                    f"row {number}: {store}"
                )


def test_no_proof_is_weaker_than_it_looks() -> None:
    """Those of other rooms (unit, stateful) come in addition; the clients' own carry the table."""
    named = {name for cells in features().values() for name in proofs(cells[-1])}
    clients = sorted(name for name in named if name.startswith(("e2e/", "crash/")))
    found = {name: Proof(name).weakness() for name in clients}
    assert {name: why for name, why in found.items() if why} == IN_ADDITION


def test_every_proof_of_a_feature_exists() -> None:
    named = [name for cells in features().values() for name in proofs(cells[-1])]
    assert len(named) > 100
    assert [each for each in map(problem, named) if each] == []
