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


MAKE = {
    "tmpfs": 'mount -t tmpfs -o size=28m none "$1"',
    "ext4": 'truncate -s 48m "$1.image" && mkfs.ext4 -q -m 0 "$1.image" && mount -o loop "$1.image" "$1"',
    "xfs": 'truncate -s 320m "$1.image" && mkfs.xfs -q "$1.image" && mount -o loop "$1.image" "$1"',
}


@pytest.mark.parametrize("kind", MAKE)
def test_deleting_works_at_zero_bytes_free(tmp_path, kind):
    paths = [str(HERE.parents[1] / "src"), str(HERE.parent)]
    disk = tmp_path / "disk"
    disk.mkdir()
    script = f'{MAKE[kind]} && mkdir "$1/root" && exec "$2" "$3" "$1/root"'
    unshare = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script, "sh"]
    child = subprocess.run(
        [*unshare, disk, sys.executable, HERE / "full_disk_child.py"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert child.stdout.endswith("passed\n"), child.stdout + child.stderr
