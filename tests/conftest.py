"""Fixtures that every test has."""

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """asyncio is what the servers run on."""
    return "asyncio"
