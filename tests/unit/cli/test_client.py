"""Which daemon the command talks to when nobody says."""

import os
from pathlib import Path

import pytest

from lading.cli.client import DEFAULT_HOST, Client


def test_a_user_finds_the_users_own_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "docker.sock").touch()
    assert Client().host == DEFAULT_HOST  # root's, for root
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert Client().host == f"unix://{tmp_path}/docker.sock"
    assert Client("unix:///given").host == "unix:///given"
    (tmp_path / "docker.sock").unlink()
    assert Client().host == DEFAULT_HOST
