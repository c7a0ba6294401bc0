"""The conformance suite of `lading.core.session.Session`, and a client to run it against.

Subclass `SessionSuite` and give it a ``connect`` fixture: a context that lends what a `Client` has as a session.
"""

import os
import stat
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from lading.core.remotes import Credentials
from lading.core.session import Session, SyncWish, TreePart
from lading.errors import LadingError, NotFoundError
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest

TIME: Final = 1_600_000_000_123_456_789
"""Nanoseconds since the epoch."""


@dataclass(slots=True, kw_only=True)
class Client:
    """What a client lends, and what it was given."""

    directories: dict[str, Path] = field(default_factory=dict[str, Path])
    received: Path = Path()
    """Where trees go that are sent to it."""
    outputs: dict[int, bytes] = field(default_factory=dict[int, bytes])
    output_metadata: dict[str, str] = field(default_factory=dict[str, str])
    credentials: dict[str, Credentials] = field(default_factory=dict[str, Credentials])
    secrets: dict[str, bytes] = field(default_factory=dict[str, bytes])
    agents: dict[str, Callable[[bytes], bytes]] = field(default_factory=dict[str, Callable[[bytes], bytes]])
    uploads: dict[str, bytes] = field(default_factory=dict[str, bytes])
    blobs: dict[str, dict[Digest, bytes]] = field(default_factory=dict[str, dict[Digest, bytes]])


Connect = Callable[[Client], AbstractAsyncContextManager[Session]]


def tree_of(root: Path) -> Mapping[str, tuple[object, ...]]:
    """What a directory holds: mode, time, and content or target, by path."""
    found: dict[str, tuple[object, ...]] = {}
    for directory, names, files in os.walk(root):
        for name in names + files:
            path = Path(directory) / name
            info = path.lstat()
            content: object = None
            if stat.S_ISLNK(info.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(info.st_mode):
                content = path.read_bytes()
            found[str(path.relative_to(root))] = (oct(info.st_mode), info.st_mtime_ns, content)
    return found


def make_tree(root: Path) -> None:
    """Files of all kinds that a build context has."""
    (root / "src/deep").mkdir(parents=True)
    (root / "src.d").mkdir()
    (root / "src/main.c").write_text("int main;")
    (root / "src/deep/large").write_bytes(os.urandom(3 << 20))
    (root / "src.d/ü ñ").write_text("umlauts")
    (root / "empty").write_bytes(b"")
    (root / "run.sh").write_text("#!/bin/sh")
    (root / "run.sh").chmod(0o4755)
    (root / "link").symlink_to("src/main.c")
    (root / "outside").symlink_to("/etc/passwd")
    os.link(root / "run.sh", root / "zz-hard")
    for path in sorted(root.rglob("*"), reverse=True):
        os.utime(path, ns=(TIME, TIME), follow_symlinks=False)


class SessionSuite:
    """Every promise of the port."""

    pytestmark = pytest.mark.anyio

    @pytest.fixture
    def connect(self) -> Connect:
        raise NotImplementedError

    @pytest.fixture
    def client(self, tmp_path: Path) -> Client:
        context = tmp_path / "context"
        context.mkdir()
        make_tree(context)
        return Client(directories={"context": context}, received=tmp_path / "received")

    async def test_a_directory_is_made_equal(self, connect: Connect, client: Client, tmp_path: Path) -> None:
        into = tmp_path / "into"
        into.mkdir()
        async with connect(client) as session:
            done = await session.sync(SyncWish(name="context"), str(into))
        assert tree_of(into) == tree_of(client.directories["context"])
        assert (done.files, done.transferred_files) == (8, 5)
        assert done.transferred_bytes == done.bytes - len("#!/bin/sh")  # the hard link
        assert (into / "zz-hard").stat().st_ino == (into / "run.sh").stat().st_ino

    async def test_only_what_changed_is_fetched_again(
        self, connect: Connect, client: Client, tmp_path: Path
    ) -> None:
        into = tmp_path / "into"
        into.mkdir()
        context = client.directories["context"]
        (context / "zz-hard").unlink()
        async with connect(client) as session:
            await session.sync(SyncWish(name="context"), str(into))
            (context / "src/main.c").write_text("int changed;")
            (context / "empty").unlink()
            (context / "link").unlink()
            (context / "link").mkdir()
            (context / "link/file").write_text("x")
            (context / "src.d/ü ñ").unlink()
            (context / "src.d").rmdir()
            (context / "src.d").write_text("a file now")
            done = await session.sync(SyncWish(name="context"), str(into))
        assert tree_of(into) == tree_of(context)
        assert done.transferred_files == 3

    async def test_what_was_in_the_way_is_not_followed(
        self, connect: Connect, client: Client, tmp_path: Path
    ) -> None:
        into, outside = tmp_path / "into", tmp_path / "outside"
        into.mkdir()
        outside.mkdir()
        (outside / "deep").mkdir()
        (outside / "main.c").write_text("precious")
        (into / "src").symlink_to(outside)
        (into / "empty").symlink_to(outside / "main.c")
        async with connect(client) as session:
            await session.sync(SyncWish(name="context"), str(into))
        assert tree_of(into) == tree_of(client.directories["context"])
        assert (outside / "main.c").read_text() == "precious"
        assert os.listdir(outside / "deep") == []

    async def test_patterns_choose(self, connect: Connect, client: Client, tmp_path: Path) -> None:
        into = tmp_path / "into"
        into.mkdir()
        async with connect(client) as session:
            await session.sync(SyncWish(name="context", exclude=["src", "ä*"]), str(into))
            assert sorted(os.listdir(into)) == ["empty", "link", "outside", "run.sh", "src.d", "zz-hard"]
            await session.sync(SyncWish(name="context", follow=["run.sh"]), str(into))
            assert sorted(os.listdir(into)) == ["run.sh"]

    async def test_a_missing_directory(self, connect: Connect, client: Client, tmp_path: Path) -> None:
        into = tmp_path / "into"
        into.mkdir()
        async with connect(client) as session:
            with pytest.raises(NotFoundError):
                await session.sync(SyncWish(name="other"), str(into))

    async def test_trees_are_sent(self, connect: Connect, client: Client) -> None:
        context = client.directories["context"]
        async with connect(client) as session:
            await session.send_tree(0, [TreePart(root=str(context))])
        assert tree_of(client.received) == tree_of(context)
        assert (client.received / "zz-hard").stat().st_ino == (client.received / "run.sh").stat().st_ino

    async def test_parts_of_a_tree_with_files_and_one_time(self, connect: Connect, client: Client) -> None:
        context = client.directories["context"]
        parts = [
            TreePart(prefix="linux_arm64", root=str(context / "src"), files={"a.json": b"{}"}),
            TreePart(prefix="linux_amd64", root=None, files={"b.json": b"[]"}),
        ]
        async with connect(client) as session:
            await session.send_tree(0, parts, epoch=1_000_000_000)
        assert sorted(os.listdir(client.received)) == ["linux_amd64", "linux_arm64"]
        assert (client.received / "linux_amd64/b.json").read_bytes() == b"[]"
        assert (client.received / "linux_arm64/a.json").read_bytes() == b"{}"
        assert {found[1] for found in tree_of(client.received).values()} == {10**18}

    async def test_outputs(self, connect: Connect, client: Client) -> None:
        data = os.urandom(5 << 20)
        async with connect(client) as session, session.open_output(2, {"Image.Name": "x"}) as stream:
            await stream.send(data[: 3 << 20])
            await stream.send(memoryview(data)[3 << 20 :])
        assert client.outputs == {2: data}
        assert client.output_metadata == {"image.name": "x"}

    async def test_an_output_that_breaks_off_is_not_complete(self, connect: Connect, client: Client) -> None:
        async with connect(client) as session:
            with pytest.raises(ValueError, match="bug"):
                async with session.open_output(0, {}) as stream:
                    await stream.send(b"half")
                    raise ValueError("bug")
        assert client.outputs == {}

    async def test_credentials(self, connect: Connect, client: Client) -> None:
        client.credentials = {
            "registry.example": Credentials(username="me", password="secret"),  # noqa: S106
            "registry-1.docker.io": Credentials(identity_token="token"),  # noqa: S106
        }
        async with connect(client) as session:
            mine = await session.credentials("registry.example")
            assert mine is not None
            assert (mine.username, mine.password) == ("me", "secret")
            hub = await session.credentials("docker.io")
            assert hub is not None
            assert hub.identity_token == "token"  # noqa: S105
            assert await session.credentials("other.example") is None

    async def test_secrets(self, connect: Connect, client: Client) -> None:
        client.secrets = {"key": b"\0binary\n", "none": b""}
        async with connect(client) as session:
            assert await session.secret("key") == b"\0binary\n"
            assert await session.secret("none") == b""
            with pytest.raises(NotFoundError):
                await session.secret("other")

    async def test_agents(self, connect: Connect, client: Client) -> None:
        client.agents = {"default": bytes.upper}
        async with connect(client) as session:
            await session.check_agent("default")
            with pytest.raises(NotFoundError):
                await session.check_agent("other")
            async with session.open_agent("default") as stream:
                for word in (b"one", b"two"):
                    await stream.send(word)
                    assert await stream.receive() == word.upper()

    async def test_uploads(self, connect: Connect, client: Client) -> None:
        client.uploads = {"/context": os.urandom(1 << 20)}
        async with connect(client) as session:
            parts = [part async for part in session.upload("/context", "buildkit-session")]
            assert b"".join(parts) == client.uploads["/context"]
            with pytest.raises(LadingError):
                assert [part async for part in session.upload("/other", "buildkit-session")]

    async def test_content(self, connect: Connect, client: Client) -> None:
        data = os.urandom(5 << 20)
        digest = Digest.of(data)
        client.blobs = {"oci:one": {digest: data}, "export": {}}
        descriptor = Descriptor(media_type="application/octet-stream", digest=digest, size=len(data))
        async with connect(client) as session:
            store = session.content("oci:one")
            assert await store.size(digest) == len(data)
            assert b"".join([part async for part in store.read(digest)]) == data
            assert b"".join([part async for part in store.read(digest, offset=4 << 20)]) == data[4 << 20 :]
            with pytest.raises(NotFoundError):
                await store.size(Digest.of(b"other"))
            for _ in range(2):  # what is there is left alone
                await session.content("export").write(descriptor, _parts(data))
        assert client.blobs["export"] == {digest: data}

    async def test_what_a_client_does_not_offer(self, connect: Connect, client: Client) -> None:
        async with connect(client) as session:
            assert session.offers("/moby.filesync.v1.filesync/diffcopy")
            assert not session.offers("/moby.filesync.v1.FileSync/Other")


async def _parts(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 700_000):
        yield data[start : start + 700_000]
