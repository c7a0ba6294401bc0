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
    here = ROOT / "src"
    made = {path.relative_to(tmp_path) for path in tmp_path.rglob("*_pb2.py*")}
    assert made == {path.relative_to(here) for path in here.rglob("_pb/*_pb2.py*")}
    for path in made:
        assert (tmp_path / path).read_bytes() == (here / path).read_bytes(), path
