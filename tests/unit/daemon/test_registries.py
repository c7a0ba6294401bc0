"""The registry client comes when it is needed, and again with another configuration."""

import dataclasses

import pytest

from lading.daemon import registry_client
from lading.daemon.config import Config
from lading.daemon.registries import ReloadableRegistries
from lading.errors import UnavailableError
from lading.testing.memory.remotes import MemoryRegistries

pytestmark = pytest.mark.anyio


class Made:
    """What was made, with the configurations that it was made of."""

    def __init__(self) -> None:
        self.configs: list[Config] = []
        self.closed = 0

    def make(self, config: Config) -> MemoryRegistries:
        self.configs.append(config)
        made = self

        class Closing(MemoryRegistries):
            async def close(self) -> None:
                made.closed += 1

        return Closing()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Made:
    made = Made()
    monkeypatch.setattr(registry_client, "make", made.make)
    return made


async def test_it_is_made_once_for_the_first_who_asks_and_with_the_configuration_of_then(made: Made) -> None:
    first, second, third = (dataclasses.replace(Config(), debug=n == 1, labels=(f"n={n}",)) for n in range(3))
    registries = ReloadableRegistries(first)
    registries.reload(second)
    assert made.configs == []
    registries.resolver()
    registries.resolver()
    assert made.configs == [second]
    registries.reload(third)
    registries.resolver()
    assert made.configs == [second, third]
    await registries.close()
    assert made.closed == 2
    with pytest.raises(UnavailableError):
        registries.resolver()


async def test_being_ready_makes_nothing(made: Made) -> None:
    registries = ReloadableRegistries(Config())
    await registries.warm()
    await registries.close()
    assert made.configs == []
    assert made.closed == 0
