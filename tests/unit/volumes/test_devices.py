"""What the kernel is asked for when a volume lies on another machine."""

import errno
from collections.abc import Sequence

import pytest

from lading.errors import FailedPreconditionError
from lading.kit import linux
from lading.volumes import devices


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        (
            {"type": "nfs", "device": ":/x", "o": "addr=localhost,rw,nfsvers=4"},
            (":/x", "nfs", ["addr=127.0.0.1", "rw", "nfsvers=4"]),
        ),
        ({"type": "nfs4", "device": "10.0.0.1:/x"}, ("10.0.0.1:/x", "nfs4", [])),
        (
            {"type": "cifs", "device": "//h/s", "o": "addr=10.1.1.1,username=u"},
            ("//h/s", "cifs", ["addr=10.1.1.1", "username=u"]),
        ),
    ],
)
def test_the_kernel_mounts_what_is_remote(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, str], asked: tuple[str, str, list[str]]
) -> None:
    told = list[tuple[str, str, list[str]]]()

    def mount(source: str, target: str, kind: str, words: Sequence[str]) -> None:
        assert target == "/target"
        told.append((source, kind, ["addr=127.0.0.1" if word == "addr=::1" else word for word in words]))

    monkeypatch.setattr(linux, "mount_with", mount)
    devices.check(options)
    devices.mount(options, "/target")
    assert told == [asked]


def test_what_the_kernel_says_is_told_without_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    def mount(*_: object) -> None:
        raise OSError(errno.ENODEV, "No such device")

    monkeypatch.setattr(linux, "mount_with", mount)
    for kind, shown in (("nfs", True), ("cifs", False)):
        options = {"type": kind, "device": "//h/s", "o": "username=u,password=secret"}
        with pytest.raises(FailedPreconditionError, match="No such device") as caught:
            devices.mount(options, "/target")
        assert ("secret" in str(caught.value)) is shown
