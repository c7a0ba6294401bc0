"""The map is true: what the prose of the project names is there, and what is there is on the map."""

import ast
import importlib
import pkgutil
import re
import runpy
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import lading
from lading.core import buildcache, content, devices, images, metadata, remotes, runtime, snapshots

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "lading"
PACKAGES = sorted(path.parent for path in SOURCE.rglob("__init__.py") if "_pb" not in path.parts)
FILE = re.compile(r"(?<![\w<])[\w.*/-]*[\w*]\.(?:py|md|sql)\b|\b(?:tests|docs|examples|bench)/[\w/-]*")
SUITES: dict[type, str] = {
    content.Store: "ContentStoreSuite",
    metadata.Database: "DatabaseSuite",
    buildcache.BuildCache: "BuildCacheSuite",
    snapshots.Snapshotter: "SnapshotterSuite",
    runtime.Runtime: "RuntimeSuite",
    remotes.Registries: "RemotesSuite",
    images.Naming: "ImageStoreSuite",
    devices.Devices: "DevicesSuite",
}
DELEGATING = {
    "ReloadableRegistries": "hands every call to an HttpRegistries",
    "DiffingSnapshotter": "a port: snapshotters that can also tell differences",
}


def exists(name: str, *roots: Path) -> bool:
    return any(next(root.glob(name.rstrip("/")), None) for root in roots)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_package_names_files_that_exist(package: Path) -> None:
    text = ast.get_docstring(ast.parse((package / "__init__.py").read_text()))
    assert text, f"{package} has no docstring"
    for name in FILE.findall(text):
        assert exists(name.removeprefix("../"), package, package.parent, SOURCE, ROOT), (package.name, name)


@pytest.mark.parametrize(
    "page",
    [*ROOT.glob("*.md"), *(ROOT / "docs" / "internals").glob("*.md")],
    ids=lambda path: path.name,
)
def test_a_page_names_files_that_exist(page: Path) -> None:
    roots = [ROOT, SOURCE, *PACKAGES]
    for span in re.findall(r"`([^`\n]+)`", page.read_text()):
        if re.fullmatch(FILE, span) and "yours" not in span:
            assert exists(span.removeprefix("../"), *roots), (page.name, span)
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), (page.name, target)


def test_every_room_is_on_the_map() -> None:
    rows = re.findall(r"^\| `([\w./]+)` \|", (ROOT / "ARCHITECTURE.md").read_text(), re.MULTILINE)
    named = {row.strip("/").split("/")[0] for row in rows}
    rooms = {path.name for path in SOURCE.iterdir() if (path / "__init__.py").exists()}
    modules = {path.name for path in SOURCE.glob("*.py")} - {"__init__.py", "__main__.py"}
    assert rooms | modules == named


def functions(document: ast.Module) -> Iterator[str]:
    for node in ast.walk(document):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name


@pytest.mark.parametrize(
    "page", sorted((ROOT / "docs" / "internals").glob("*.md")), ids=lambda path: path.name
)
def test_a_life_names_functions_that_exist(page: Path) -> None:
    found = {name for path in SOURCE.rglob("*.py") for name in functions(ast.parse(path.read_text()))}
    named = re.findall(r"`(?:\w+\.)*(\w+)\(\)`", page.read_text())
    assert named
    for name in named:
        assert name in found, (page.name, name)


def adapters(port: type) -> Iterator[type]:
    """The classes that implement a port, without the bases that they share."""
    for kind in port.__subclasses__():
        if not kind.__module__.startswith("lading."):
            continue
        # A port made of ports is itself no adapter.
        protocol = getattr(kind, "_is_protocol", False)
        if protocol or any(each.__module__.startswith("lading.") for each in kind.__subclasses__()):
            yield from adapters(kind)
        else:
            yield kind


def with_support(path: Path) -> str:
    """The text of a test module and of the support modules that it imports."""
    text = path.read_text()
    for name in re.findall(r"^from support\.(\w+) import", text, re.MULTILINE):
        text += (ROOT / "tests" / "support" / f"{name}.py").read_text()
    return text


@pytest.mark.parametrize("port", SUITES, ids=lambda port: f"{port.__module__}.{port.__name__}")
def test_every_adapter_has_its_suite(port: type) -> None:
    for module in pkgutil.walk_packages(lading.__path__, "lading."):
        if "_pb" not in module.name and "__main__" not in module.name:
            importlib.import_module(module.name)
    tests = [with_support(path) for path in (ROOT / "tests" / "conformance").glob("test_*.py")]
    found = [kind.__name__ for kind in adapters(port) if kind.__name__ not in DELEGATING]
    assert len(found) >= 2, "a port has a real adapter and one in memory"
    for name in found:
        assert any(name in text and SUITES[port] in text for text in tests), f"{name} has no suite"


REFERENCE: dict[str, Any] = runpy.run_path(str(ROOT / "scripts" / "reference.py"))


@pytest.mark.parametrize("name", sorted(REFERENCE["PAGES"]))
def test_the_reference_is_what_the_code_says(name: str) -> None:
    page = (ROOT / "docs" / "reference" / name).read_text()
    assert page == REFERENCE["PAGES"][name](), "run: python scripts/reference.py"


ELSEWHERE = {
    *("Config.ExposedPorts", "Config.Volumes", "Config.NetworkDisabled", "Config.MacAddress"),
    *("HostConfig.NetworkMode", "HostConfig.PortBindings", "HostConfig.PublishAllPorts", "HostConfig.Links"),
    *("HostConfig.Dns", "HostConfig.DnsOptions", "HostConfig.DnsSearch", "HostConfig.ExtraHosts"),
    *("HostConfig.VolumesFrom", "HostConfig.VolumeDriver"),
}
"""Fields of networks and volumes, whose tests may name them but are not made to."""


def test_every_route_and_field_of_containers_is_proved() -> None:
    proved = REFERENCE["proofs"]()
    fields = {name for name, _ in REFERENCE["container_fields"]()}
    wanted = {*REFERENCE["container_routes"](), *fields - ELSEWHERE}
    assert sorted(wanted - proved.keys()) == []
    mine = {name for name in proved if name.split(".")[0] in ("Config", "HostConfig")}
    assert sorted(mine - fields) == [], "a test proves a field that there is not"


def test_every_command_is_in_the_help() -> None:
    for name in REFERENCE["group"].commands:
        assert re.search(rf"^  {name} ", REFERENCE["entry"].HELP, re.MULTILINE), name


ADRS = sorted((ROOT / "docs" / "adr").glob("[0-9]*.md"))


def test_the_index_of_decisions_is_complete() -> None:
    text = (ROOT / "docs" / "adr" / "README.md").read_text()
    assert re.findall(r"\]\((\d{4}-[\w-]+\.md)\)", text) == [path.name for path in ADRS]
    for path in ADRS:
        number, title = path.read_text().splitlines()[0].removeprefix("# ").split(": ", 1)
        assert f"* [{number} {title}]({path.name})" in text.splitlines()


def dependencies() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [re.split(r"[<>=; ]", requirement)[0] for requirement in project["dependencies"]]


def test_every_dependency_has_a_decision() -> None:
    decisions = "\n".join(path.read_text() for path in ADRS)
    for name in dependencies():
        assert f"`{name}`" in decisions or re.search(
            rf"^# .*\b{re.escape(name)}\b", decisions, re.MULTILINE
        ), name


def imports(document: ast.Module) -> Iterator[str]:
    for node in ast.walk(document):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_what_is_imported_is_declared_and_the_other_way_round() -> None:
    found = {name for path in SOURCE.rglob("*.py") for name in imports(ast.parse(path.read_text()))}
    tops = {name.split(".")[0] for name in found} - sys.stdlib_module_names - {"lading", "conftest", "pytest"}
    distributions = {"google": "protobuf", "backports": "backports.zstd"}
    assert {distributions.get(name, name) for name in tops} == set(dependencies())
