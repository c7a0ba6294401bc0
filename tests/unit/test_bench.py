"""The benchmark says at once what it cannot do, not after it has measured for minutes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"


@pytest.mark.parametrize("option", ["--phases=pull,nonsense", "--peers=nonsense", "--builds=nonsense"])
def test_what_is_not_there_is_refused_before_anything_is_made(option: str) -> None:
    done = subprocess.run(
        [sys.executable, str(BENCH / "run.py"), option], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "there is no nonsense; choose from" in done.stderr


def test_outside_of_git_the_record_is_kept(tmp_path: Path) -> None:
    environment = os.environ | {"GIT_DIR": str(tmp_path / "none"), "PYTHONPATH": str(BENCH)}
    done = subprocess.run(
        [sys.executable, "-c", "import run; print(run.commit())"],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert done.stdout == "unknown\n"
