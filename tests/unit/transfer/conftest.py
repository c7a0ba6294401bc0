"""Every test of transfers runs on a snapshotter that takes layers in parallel, and on one that does not."""

import pytest
from support.world import World


@pytest.fixture(params=[True, False], ids=["parallel", "serial"])
def world(request: pytest.FixtureRequest) -> World:
    return World(parallel=request.param)


@pytest.fixture
def other() -> World:
    """A second, empty store."""
    return World()
