"""At zero free bytes nothing new is stored, the error says what to do, and doing it works."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.crash,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system in a namespace of its own"),
]
HERE = Path(__file__).parent


@pytest.mark.parametrize("size", ["28m"])
def test_deleting_works_at_zero_bytes_free(tmp_path, size):
    paths = [str(HERE.parents[1] / "src"), str(HERE.parent)]
    script = 'mount -t tmpfs -o size="$1" none "$2" && mkdir "$2/root" && exec "$3" "$4" "$2/root"'
    unshare = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script, "sh"]
    child = subprocess.run(
        [*unshare, size, tmp_path, sys.executable, HERE / "full_disk_child.py"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert child.stdout.endswith("passed\n"), child.stdout + child.stderr
