"""The command starts fast because it imports little."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = str(Path(__file__).parents[3] / "src")
HEAVY = {
    "aiohttp",
    "anyio",
    "asyncio",
    "click",
    "rich",
    "structlog",
    "msgspec",
    "http.client",
    "json",
    "ssl",
    "google",
}


def imported(*arguments: str) -> tuple[set[str], str, int]:
    """Modules that a run of the command imports, what it prints, and its exit status."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "lading", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": SOURCE, "DOCKER_HOST": "unix:///nonexistent/lading.sock"},
    )
    names = {
        line.rpartition("|")[2].strip()
        for line in done.stderr.splitlines()
        if line.startswith("import time:")
    }
    return names, done.stdout, done.returncode


def test_help_imports_nothing_of_ours_and_nothing_heavy() -> None:
    names, text, status = imported("--help")
    assert status == 0
    assert "Usage: lading" in text
    assert names & HEAVY == set()
    assert {name for name in names if name.startswith("lading")} <= {"lading", "lading.__main__"}


@pytest.mark.parametrize("command", ["why", "gc", "fsck", "store"])
def test_help_of_a_command_does_not_load_the_daemon(command: str) -> None:
    names, text, status = imported(command, "--help")
    assert status == 0
    assert f"lading {command}" in text
    assert names & {"aiohttp", "anyio", "asyncio", "rich", "structlog", "msgspec", "google"} == set()


def test_daemon_help_does_not_load_the_rooms() -> None:
    names, text, status = imported("daemon", "--help")
    assert status == 0
    assert "--data-root" in text
    assert not {
        name for name in names if name.startswith(("lading.remotes", "lading.images", "lading.runtime"))
    }


def test_a_missing_daemon_is_said_with_what_to_do() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lading", "store", "status"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": SOURCE, "DOCKER_HOST": "unix:///nonexistent/lading.sock"},
    )
    assert done.returncode == 1
    assert "cannot reach the Lading daemon at unix:///nonexistent/lading.sock" in done.stderr
    assert "lading daemon" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["nonsense"], ["why"], ["-H", "gopher://x", "store", "status"]])
def test_bad_arguments_are_said_without_a_traceback(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lading", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": SOURCE},
    )
    assert done.returncode != 0
    assert done.stderr
    assert "Traceback" not in done.stderr
