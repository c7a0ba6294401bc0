"""Processes by their mount namespace."""

import os
import subprocess

from lading.containers import members


def test_all_of_a_mount_namespace_are_found_and_ended():
    words = ["unshare", "--mount", "sh", "-c", "sleep 600 & echo; sleep 600"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        first.stdout.readline()
        namespace = members.namespace_of(first.pid)
        assert namespace != members.namespace_of(os.getpid())
        found = members.of(namespace)
        assert first.pid in found
        assert len(found) >= 2
        members.kill(namespace)
        assert members.of(namespace) == frozenset()
        assert first.wait() < 0
    members.kill(namespace)
    assert members.namespace_of(first.pid) == ""
    assert members.of("") == frozenset()
    assert os.getpid() in members.of(members.namespace_of(os.getpid()))
