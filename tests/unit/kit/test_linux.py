"""What the kernel and the C library are told, seen from outside."""

import subprocess
import sys

import pytest

THREADS = """
import ctypes, sys, threading
from lading.kit import linux
if sys.argv[1] == "shared":
    linux.share_arenas(2)
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
together = threading.Barrier(8)
def use():
    libc.malloc(ctypes.c_size_t(5000))
    together.wait()
threads = [threading.Thread(target=use) for _ in range(8)]
[each.start() for each in threads]
[each.join() for each in threads]
out = ctypes.c_void_p(libc.fopen(b"/dev/stdout", b"w"))
libc.malloc_info(0, out)
libc.fclose(out)
"""


@pytest.mark.parametrize(
    ("how", "environment", "shared"),
    [("shared", {}, True), ("apart", {}, False), ("shared", {"MALLOC_ARENA_MAX": "6"}, False)],
)
def test_threads_share_arenas(how: str, environment: dict[str, str], shared: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", THREADS, how], capture_output=True, text=True, check=True, env=environment
    )
    arenas = done.stdout.count("<heap nr=")
    assert (arenas <= 2) == shared, done.stdout
