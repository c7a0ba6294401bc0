"""The generated message classes are those of the .proto files."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_generating_again_changes_nothing(tmp_path: Path) -> None:
    subprocess.run(
        [ROOT / "scripts/protos.sh", tmp_path],
        check=True,
        env={"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"},
    )
    made = sorted((tmp_path / "lading/runtime/_pb").iterdir())
    assert {path.name for path in made} == {
        path.name for path in (ROOT / "src/lading/runtime/_pb").glob("*_pb2.py*")
    }
    for path in made:
        assert path.read_bytes() == (ROOT / "src/lading/runtime/_pb" / path.name).read_bytes(), path.name
