"""The generated message classes are those of the .proto files."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = sorted(path.relative_to(ROOT / "src") for path in (ROOT / "src/lading").rglob("_pb"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("protos")
    subprocess.run(
        [ROOT / "scripts/protos.sh", target],
        check=True,
        env={"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"},
    )
    return target


@pytest.mark.parametrize("package", PACKAGES, ids=str)
def test_generating_again_changes_nothing(made: Path, package: Path) -> None:
    fresh = sorted((made / package).iterdir())
    assert {path.name for path in fresh} == {path.name for path in (ROOT / "src" / package).glob("*_pb2.py*")}
    for path in fresh:
        assert path.read_bytes() == (ROOT / "src" / package / path.name).read_bytes(), path.name
