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


def stores_of(named: str) -> set[str]:
    """The image stores over which ``file::test`` runs, by its own marks or its module's."""
    file, _, function = named.partition("[")[0].partition("::")
    tree = ast.parse((ROOT / "tests" / file).read_text())
    marked = [
        decorator
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == function
        for decorator in node.decorator_list
    ]
    marked += [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id == "pytestmark"
    ]
    calls = [call for mark in marked for call in ast.walk(mark) if isinstance(call, ast.Call)]
    found = {
        argument.value
        for call in calls
        if isinstance(call.func, ast.Attribute) and call.func.attr == "stores"
        for argument in call.args
        if isinstance(argument, ast.Constant)
    }
    return found or {"containerd"}


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
        for letter, last in (("T", 26), ("D", 20), ("R", 13), ("A", 10), ("X", 8))
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
            if status == "yes":  # through an unmodified client, or by killing what serves it
                clients = [name for name in proofs(proof) if name.startswith(("e2e/", "crash/"))]
                assert any(store in stores_of(name) for name in clients), f"row {number}: {store}"


def test_every_proof_of_a_feature_exists() -> None:
    named = [name for cells in features().values() for name in proofs(cells[-1])]
    assert len(named) > 100
    assert [each for each in map(problem, named) if each] == []
