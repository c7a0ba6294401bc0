"""Which image store is chosen: dockerd's rules, and where Lading's own choice stands among them."""

import pytest

from lading.daemon.selection import Asked, StoreKind, hidden_words, messages, parse_kind, select
from lading.errors import FailedPreconditionError

CONTAINERD, CLASSIC = StoreKind.CONTAINERD, StoreKind.CLASSIC


@pytest.mark.parametrize(
    ("asked", "kind", "driver"),
    [
        (Asked(), CONTAINERD, ""),
        (Asked(driver="erofs"), CONTAINERD, "erofs"),
        (Asked(prior="overlay2"), CLASSIC, "overlay2"),
        (Asked(prior="overlay2", driver="erofs"), CLASSIC, "overlay2"),
        (Asked(driver="overlay2"), CLASSIC, "overlay2"),
        (Asked(flag=True, prior="overlay2"), CONTAINERD, ""),
        (Asked(flag=True, driver="native"), CONTAINERD, "native"),
        (Asked(flag=True, prior="zfs"), CONTAINERD, ""),
        (Asked(flag=False), CLASSIC, "overlay2"),
        (Asked(flag=False, driver="overlay2", chosen=CONTAINERD), CLASSIC, "overlay2"),
        (Asked(chosen=CONTAINERD, prior="overlay2"), CONTAINERD, ""),
        (Asked(chosen=CONTAINERD, driver="overlay2"), CONTAINERD, ""),
        (Asked(chosen=CLASSIC), CLASSIC, "overlay2"),
        (Asked(chosen=CLASSIC, driver="erofs"), CLASSIC, "overlay2"),
    ],
)
def test_the_order_of_the_rules(asked: Asked, kind: StoreKind, driver: str) -> None:
    found = select(asked)
    assert (found.kind, found.driver, found.explicit) == (kind, driver, asked.flag is not None)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (Asked(flag=True, driver="overlay2"), 'configured driver "overlay2" not available: unavailable'),
        (Asked(flag=True, driver="zfs"), 'configured driver "zfs" not available: unavailable'),
        (Asked(flag=False, driver="erofs"), "driver not supported: erofs"),
        (Asked(flag=False, driver="btrfs"), "driver not supported: btrfs"),
        (Asked(driver="zfs"), "driver not supported: zfs"),
        (Asked(prior="btrfs"), 'storage driver "btrfs"'),
    ],
)
def test_what_cannot_be_had(asked: Asked, message: str) -> None:
    with pytest.raises(FailedPreconditionError, match=message):
        select(asked)


def test_words() -> None:
    assert messages(select(Asked()), None) == [
        "Starting daemon with containerd snapshotter integration enabled"
    ]
    assert len(messages(select(Asked(flag=True)), True)) == 2
    assert messages(select(Asked(flag=False)), False) == []
    assert hidden_words(CLASSIC, {"images": 0, "containers": 0}) == ""
    assert hidden_words(CLASSIC, {"images": 1, "containers": 0}).startswith(
        "1 image of the classic image store is hidden"
    )
    assert "2 images and 1 container of the containerd image store are hidden" in hidden_words(
        CONTAINERD, {"images": 2, "containers": 1}
    )
    assert [parse_kind(text) for text in ("containerd", "classic", "other")] == [CONTAINERD, CLASSIC, None]
    assert CLASSIC.other is CONTAINERD
