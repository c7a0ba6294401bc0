"""A data-root of dockerd belongs to one daemon at a time, and what is ours in it is no volume of dockerd's."""

import fcntl
import os
from pathlib import Path

import pytest

from lading.daemon import stores
from lading.errors import FailedPreconditionError
from lading.kit.fs import LockedError


def test_a_data_root_that_a_dockerd_uses_is_refused(tmp_path: Path) -> None:
    assert stores.keep_dockerd_out(tmp_path) is None
    (tmp_path / "volumes").mkdir()
    database = tmp_path / "volumes" / "metadata.db"
    database.write_bytes(b"")
    with database.open() as dockerd:
        fcntl.flock(dockerd, fcntl.LOCK_EX)
        with pytest.raises(LockedError, match="a dockerd uses the data-root"):
            stores.keep_dockerd_out(tmp_path)
    ours = stores.keep_dockerd_out(tmp_path)
    assert ours is not None
    try:
        with database.open() as dockerd, pytest.raises(BlockingIOError):
            fcntl.flock(dockerd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(ours)


@pytest.mark.parametrize("kept", ["compressed", "unpacked"])
def test_the_classic_store_cannot_keep_layers_otherwise(kept: str) -> None:
    stores.check_layers_kept("both")
    with pytest.raises(FailedPreconditionError, match=kept):
        stores.check_layers_kept(kept)
