"""Processes that are left behind."""

import os
import select
import socket

import pytest

from lading.kit import detached

PROGRAM = """
import os, sys
if os.fork():
    sys.stdout.write("ready\\n")
else:
    sys.stdout.close()
    os.write(int(sys.argv[1]), f"{os.getcwd()} {len(os.environ)} {os.getsid(0) != int(sys.argv[2])}".encode())
"""


def test_it_inherits_what_it_is_given_and_nothing_else(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    ours, its = socket.socketpair()
    with ours, its:
        detached.start(str(program), str(its.fileno()), str(os.getsid(0)), cwd=tmp_path, fds=[its.fileno()])
        assert select.select([ours], [], [], 20)[0]
        place, variables, new_session = ours.recv(1000).decode().split()
    assert place == str(tmp_path)
    assert int(variables) <= 1  # Python sets LC_CTYPE where there is no locale
    assert new_session == "True"


@pytest.mark.parametrize("program", ["raise SystemExit(1)", "print('what')"])
def test_one_that_does_not_say_it_is_ready_is_no_success(tmp_path, program):
    path = tmp_path / "program.py"
    path.write_text(program)
    with pytest.raises(ConnectionRefusedError, match=r"program\.py did not start"):
        detached.start(str(path))
