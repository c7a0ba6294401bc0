"""What every snapshotter promises: suites to be subclassed with a ``snapshotter`` fixture.

`SnapshotterSuite` looks at trees through `SnapshotterSuite.tree`, which mounts them by default; a fake that cannot be mounted
overrides it. `MountedSnapshotterSuite` adds what can only be seen through real mounts, which are made in
mount namespaces of their own. The expectations are those of containerd's snapshotter suite and of our port.
"""

import errno
import os
import stat
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import anyio
import pytest

from lading.core.diff import Change, ChangeKind, Differ
from lading.core.mounts import Mount
from lading.core.snapshots import (
    Capability,
    DiffIDMismatchError,
    Kind,
    SnapshotKey,
    SnapshotName,
    Snapshotter,
)
from lading.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    UnsupportedError,
)
from lading.kit import linux
from lading.kit.aio import DISK, run
from lading.oci.digest import DiffID
from lading.testing.layers import directory, file, hardlink, opaque, symlink, tar, unpack, whiteout

T = TypeVar("T")
Tree = dict[str, str]
"""Path to kind, mode and content: ``f 644 data``, ``d 755``, ``l target``."""


async def inside(mounts: Sequence[Mount], function: Callable[[Path], T]) -> T:
    """Call a blocking function with the root of a mounted snapshot; unmounted afterwards."""

    def body() -> T:
        with tempfile.TemporaryDirectory(prefix="lading-mount-") as target:
            return linux.in_private_namespace(lambda: within(Path(target)))

    def within(target: Path) -> T:
        for mount in mounts:
            linux.mount_with(mount.source, str(target), mount.type, mount.options)
        try:
            return function(target)
        finally:
            linux.unmount(str(target))

    return await run(DISK, body)


def describe(root: Path) -> Tree:
    """The tree below a directory."""
    found: Tree = {}
    for place in sorted(root.rglob("*")):
        status = place.lstat()
        mode = f"{stat.S_IMODE(status.st_mode):o}"
        path = str(place.relative_to(root))
        if place.is_symlink():
            found[path] = f"l {place.readlink()}"
        elif place.is_dir():
            found[path] = f"d {mode}"
        else:
            found[path] = f"f {mode} {place.read_text()}"
    return found


class SnapshotterSuite:
    """The promises of `lading.core.snapshots.Snapshotter` that need no mount."""

    @pytest.fixture
    def snapshotter(self) -> Snapshotter:
        """The snapshotter under test, empty."""
        raise NotImplementedError

    async def tree(self, snapshotter: Snapshotter, name: str) -> Tree:
        """What a committed snapshot shows."""
        key = SnapshotKey(f"look-{name}")
        try:
            return await inside(await snapshotter.view(key, SnapshotName(name)), describe)
        finally:
            await snapshotter.remove(key)

    async def test_created_equals_updated_until_the_first_update(self, snapshotter: Snapshotter) -> None:
        await snapshotter.prepare(SnapshotKey("a"), None, labels={"one": "1"})
        before = await snapshotter.stat("a")
        assert before.created_at == before.updated_at
        assert (before.key, before.kind, before.parent, before.labels) == (
            "a",
            Kind.ACTIVE,
            None,
            {"one": "1"},
        )
        after = await snapshotter.update("a", {"one": None, "two": "2"})
        assert after == await snapshotter.stat("a")
        assert after.labels == {"two": "2"}
        assert after.updated_at > after.created_at == before.created_at

    async def test_what_does_not_exist(self, snapshotter: Snapshotter) -> None:
        for attempt in (
            lambda: snapshotter.stat("a"),
            lambda: snapshotter.update("a", {}),
            lambda: snapshotter.usage("a"),
            lambda: snapshotter.mounts(SnapshotKey("a")),
            lambda: snapshotter.remove("a"),
            lambda: snapshotter.commit(SnapshotName("b"), SnapshotKey("a")),
            lambda: snapshotter.prepare(SnapshotKey("b"), SnapshotName("a")),
            lambda: snapshotter.view(SnapshotKey("b"), SnapshotName("a")),
        ):
            with pytest.raises(NotFoundError):
                await attempt()
        assert [info async for info in snapshotter.walk()] == []

    async def test_keys_and_names_share_one_space(self, snapshotter: Snapshotter) -> None:
        await snapshotter.prepare(SnapshotKey("a"), None)
        await unpack(snapshotter, "b", None, tar())
        for name in ("a", "b"):
            with pytest.raises(AlreadyExistsError):
                await snapshotter.prepare(SnapshotKey(name), None)
            with pytest.raises(AlreadyExistsError):
                await snapshotter.view(SnapshotKey(name), None)
            with pytest.raises(AlreadyExistsError):
                await snapshotter.commit(SnapshotName(name), SnapshotKey("a"))

    async def test_a_copy_takes_the_place_of_a_damaged_layer(self, snapshotter: Snapshotter) -> None:
        base, name, copy = SnapshotName("base"), SnapshotName("layer"), SnapshotName("copy")
        if Capability.REPLACES not in snapshotter.capabilities:
            with pytest.raises(UnsupportedError):
                await snapshotter.replace(name, copy)
            return
        entries = [directory("d"), file("d/f", b"content"), symlink("d/l", "f"), whiteout("gone")]
        await unpack(snapshotter, base, None, tar(file("gone"), file("b", b"below")))
        await unpack(snapshotter, name, base, tar(*entries))
        await unpack(snapshotter, "above", name, tar(file("top", b"above")))
        before = await self.tree(snapshotter, "above")
        await unpack(snapshotter, copy, base, tar(*entries))
        assert await snapshotter.compare(name, copy) == ""
        for missing in ((name, SnapshotName("z")), (SnapshotName("z"), copy)):
            with pytest.raises(NotFoundError):
                await snapshotter.compare(*missing)
            with pytest.raises(NotFoundError):
                await snapshotter.replace(*missing)
        with pytest.raises(FailedPreconditionError):
            await snapshotter.replace(copy, name)  # something stands on it
        await snapshotter.replace(name, copy)
        assert await self.tree(snapshotter, "above") == before
        with pytest.raises(NotFoundError):
            await snapshotter.stat(copy)
        for number, wrong in enumerate(
            ([*entries[:1], file("d/f", b"CONTENT"), *entries[2:]], entries[:3], [*entries, file("more")])
        ):
            other = SnapshotName(f"wrong-{number}")
            await unpack(snapshotter, other, base, tar(*wrong))
            assert await snapshotter.compare(name, other) != ""

    async def test_only_committed_snapshots_are_parents(self, snapshotter: Snapshotter) -> None:
        await snapshotter.prepare(SnapshotKey("a"), None)
        with pytest.raises(InvalidArgumentError):
            await snapshotter.prepare(SnapshotKey("b"), SnapshotName("a"))
        with pytest.raises(NotFoundError):
            await snapshotter.stat("b")

    async def test_commit_consumes_the_key(self, snapshotter: Snapshotter) -> None:
        await snapshotter.prepare(SnapshotKey("a"), None)
        await snapshotter.commit(SnapshotName("b"), SnapshotKey("a"), labels={"x": "y"})
        info = await snapshotter.stat("b")
        assert (info.kind, info.labels) == (Kind.COMMITTED, {"x": "y"})
        with pytest.raises(NotFoundError):
            await snapshotter.stat("a")
        with pytest.raises(FailedPreconditionError):
            await snapshotter.mounts(SnapshotKey("b"))

    async def test_a_view_keeps_its_parent_and_is_not_committed(self, snapshotter: Snapshotter) -> None:
        base = await unpack(snapshotter, "base", None, tar(file("a")))
        mounts = await snapshotter.view(SnapshotKey("v"), base)
        assert mounts == await snapshotter.mounts(SnapshotKey("v"))
        info = await snapshotter.stat("v")
        assert (info.kind, info.parent) == (Kind.VIEW, "base")
        with pytest.raises(FailedPreconditionError):
            await snapshotter.commit(SnapshotName("c"), SnapshotKey("v"))

    async def test_a_parent_cannot_be_removed(self, snapshotter: Snapshotter) -> None:
        base = await unpack(snapshotter, "base", None, tar(file("a")))
        top = await unpack(snapshotter, "top", base, tar(file("b")))
        await snapshotter.prepare(SnapshotKey("k"), top)
        for name in (base, top):
            with pytest.raises(FailedPreconditionError):
                await snapshotter.remove(name)
        for name in ("k", top, base):
            await snapshotter.remove(name)
            with pytest.raises(NotFoundError):
                await snapshotter.remove(name)

    async def test_many_are_made_on_one_at_a_time(self, snapshotter: Snapshotter) -> None:
        for turn in range(6):
            base = await unpack(snapshotter, f"base-{turn}", None, tar(file("a", str(turn).encode())))
            async with anyio.create_task_group() as group:
                for number in range(6):
                    name = f"{turn}-{number}"
                    group.start_soon(
                        unpack, snapshotter, f"layer-{name}", base, tar(file("b", name.encode()))
                    )
                    group.start_soon(snapshotter.prepare, SnapshotKey(f"active-{name}"), base)
        assert len([info async for info in snapshotter.walk()]) == 6 * 13

    async def test_walk_is_in_order(self, snapshotter: Snapshotter) -> None:
        for key in ("c", "a", "b"):
            await snapshotter.prepare(SnapshotKey(key), None)
        assert [info.key async for info in snapshotter.walk()] == ["a", "b", "c"]

    async def test_close_twice(self, snapshotter: Snapshotter) -> None:
        await unpack(snapshotter, "base", None, tar(file("a")))
        await snapshotter.close()
        await snapshotter.close()

    async def test_a_layer(self, snapshotter: Snapshotter) -> None:
        archive = tar(
            directory("etc", mode=0o750),
            file("etc/a", b"one", mode=0o600),
            hardlink("etc/b", "etc/a"),
            symlink("etc/c", "/etc/a"),
        )
        for chunk in (1, 511, 1 << 18):
            name = await unpack(snapshotter, f"layer{chunk}", None, archive, chunk=chunk)
            assert await self.tree(snapshotter, name) == {
                "etc": "d 750",
                "etc/a": "f 644 one",
                "etc/b": "f 644 one",
                "etc/c": "l /etc/a",
            }
            usage = await snapshotter.usage(name)
            assert usage == await snapshotter.usage(name)
            assert usage.inodes == 4

    async def test_a_wrong_diff_id_publishes_nothing(self, snapshotter: Snapshotter) -> None:
        with pytest.raises(DiffIDMismatchError):
            async with snapshotter.open_layer(SnapshotName("x"), None, diff_id=DiffID.of(b"")) as layer:
                layer.write(tar(file("a")))
                assert layer.finish() == DiffID.of(tar(file("a")))
                await layer.commit()
        with pytest.raises(NotFoundError):
            await snapshotter.stat("x")
        await unpack(snapshotter, "x", None, tar(file("a")))

    @pytest.mark.parametrize(
        "archive",
        [tar(file("a", b"x" * 2000))[:1000], tar(hardlink("a", "b")), tar(file("x/.wh.", b"")), b"?" * 1024],
    )
    async def test_a_bad_archive_publishes_nothing(self, snapshotter: Snapshotter, archive: bytes) -> None:
        with pytest.raises(InvalidArgumentError):
            await unpack(snapshotter, "x", None, archive)
        with pytest.raises(NotFoundError):
            await snapshotter.stat("x")
        assert [info async for info in snapshotter.walk()] == []

    async def test_a_layer_needs_an_end_and_a_commit(self, snapshotter: Snapshotter) -> None:
        archive = tar(file("a"))
        async with snapshotter.open_layer(SnapshotName("x"), None, diff_id=DiffID.of(archive)) as layer:
            layer.write(archive)
            with pytest.raises(FailedPreconditionError):
                await layer.commit()
            layer.finish()
        with pytest.raises(NotFoundError):
            await snapshotter.stat("x")

    async def test_a_committed_layer_is_not_opened(self, snapshotter: Snapshotter) -> None:
        archive = tar(file("a"))
        name = await unpack(snapshotter, "x", None, archive)
        with pytest.raises(AlreadyExistsError):
            async with snapshotter.open_layer(name, None, diff_id=DiffID.of(archive)):
                pass

    async def test_whoever_commits_second_joins(self, snapshotter: Snapshotter) -> None:
        archive = tar(file("a", b"data"))
        name = SnapshotName("x")
        async with snapshotter.open_layer(name, None, diff_id=DiffID.of(archive)) as second:
            second.write(archive)
            second.finish()
            await unpack(snapshotter, name, None, archive)
            await second.commit()
            await second.commit()
        assert await self.tree(snapshotter, name) == {"a": "f 644 data"}

    async def test_layers_in_parallel(self, snapshotter: Snapshotter) -> None:
        if Capability.PARALLEL_LAYERS not in snapshotter.capabilities:
            pytest.skip("the snapshotter does not take layers in parallel")
        below, above = tar(file("a", b"1")), tar(whiteout("a"), file("b", b"2"))
        async with snapshotter.open_layer(
            SnapshotName("above"), SnapshotName("below"), diff_id=DiffID.of(above)
        ) as layer:
            layer.write(above)
            layer.finish()
            with pytest.raises(FailedPreconditionError):
                await layer.commit()
            await unpack(snapshotter, "below", None, below)
            await layer.commit()
        assert await self.tree(snapshotter, "above") == {"b": "f 644 2"}

    async def test_a_layer_without_its_parent(self, snapshotter: Snapshotter) -> None:
        with pytest.raises((FailedPreconditionError, NotFoundError)):
            await unpack(snapshotter, "x", "missing", tar())

    async def test_whiteouts(self, snapshotter: Snapshotter) -> None:
        base = await unpack(
            snapshotter,
            "base",
            None,
            tar(
                directory("d"),
                file("d/a"),
                file("d/b"),
                directory("o"),
                file("o/a"),
                directory("o/s"),
                file("f"),
            ),
        )
        top = await unpack(
            snapshotter,
            "top",
            base,
            tar(whiteout("d/a"), directory("o"), file("o/new"), opaque("o"), whiteout("f")),
        )
        assert await self.tree(snapshotter, base) == {
            "d": "d 755",
            "d/a": "f 644 ",
            "d/b": "f 644 ",
            "f": "f 644 ",
            "o": "d 755",
            "o/a": "f 644 ",
            "o/s": "d 755",
        }
        assert await self.tree(snapshotter, top) == {
            "d": "d 755",
            "d/b": "f 644 ",
            "o": "d 755",
            "o/new": "f 644 ",
        }

    async def test_whiteouts_concern_layers_below_only_in_any_order(self, snapshotter: Snapshotter) -> None:
        base = await unpack(snapshotter, "base", None, tar(directory("d"), file("d/old"), file("f", b"old")))
        marks = [whiteout("d"), whiteout("f")]
        things = [directory("d"), file("d/new"), file("f", b"new")]
        before = await unpack(snapshotter, "before", base, tar(*marks, *things))
        after = await unpack(snapshotter, "after", base, tar(*things, *marks))
        mixed = await unpack(
            snapshotter,
            "mixed",
            base,
            tar(file("d/new"), whiteout("d"), *marks, file("f", b"new"), directory("d")),
        )
        for name in (before, after, mixed):
            assert await self.tree(snapshotter, name) == {
                "d": "d 755",
                "d/new": "f 644 ",
                "f": "f 644 new",
            }

    async def test_an_opaque_root(self, snapshotter: Snapshotter) -> None:
        base = await unpack(snapshotter, "base", None, tar(directory("d"), file("d/old")))
        top = await unpack(snapshotter, "top", base, tar(file("new"), opaque("")))
        more = await unpack(snapshotter, "more", top, tar(file("more")))
        assert await self.tree(snapshotter, more) == {"new": "f 644 ", "more": "f 644 "}

    async def test_a_file_replaces_a_directory_and_back(self, snapshotter: Snapshotter) -> None:
        base = await unpack(snapshotter, "base", None, tar(directory("d"), file("d/old"), file("f")))
        top = await unpack(snapshotter, "top", base, tar(file("d", b"now"), directory("f"), file("f/x")))
        assert await self.tree(snapshotter, top) == {"d": "f 644 now", "f": "d 755", "f/x": "f 644 "}

    async def test_implied_directories_are_as_below(self, snapshotter: Snapshotter) -> None:
        base = await unpack(
            snapshotter, "base", None, tar(directory("a", mode=0o711), directory("a/b", mode=0o2750))
        )
        middle = await unpack(snapshotter, "middle", base, tar(file("other")))
        top = await unpack(snapshotter, "top", middle, tar(file("a/b/c/d")))
        assert await self.tree(snapshotter, top) == {
            "a": "d 711",
            "a/b": "d 2750",
            "a/b/c": "d 755",
            "a/b/c/d": "f 644 ",
            "other": "f 644 ",
        }

    async def test_a_layer_lends_the_stream_that_it_was_made_of_or_none(
        self, snapshotter: Snapshotter
    ) -> None:
        archive = tar(file("a", b"1" * 5000))
        name = await unpack(snapshotter, "base", None, archive)
        try:
            async with snapshotter.open_stream(name) as fd:
                assert os.pread(fd, len(archive), 0) == archive
        except (UnsupportedError, FailedPreconditionError):
            return

    async def test_sweep_keeps_what_has_a_row(self, snapshotter: Snapshotter) -> None:
        name = await unpack(snapshotter, "x", None, tar(file("a", b"1")))
        await snapshotter.sweep()
        assert await self.tree(snapshotter, name) == {"a": "f 644 1"}


class MountedSnapshotterSuite(SnapshotterSuite):
    """What is seen through mounts, and what the snapshotter tells of changes."""

    @pytest.fixture
    def differ(self, snapshotter: Snapshotter) -> Differ:
        """The differ of the snapshotter under test; often the same object."""
        raise NotImplementedError

    async def change(
        self, snapshotter: Snapshotter, name: str, parent: str | None, script: str
    ) -> SnapshotName:
        """A committed snapshot made by a shell script that runs in the mounted tree."""
        key = SnapshotKey(f"change-{name}")
        mounts = await snapshotter.prepare(key, None if parent is None else SnapshotName(parent))

        def body(root: Path) -> None:
            subprocess.run(["/bin/sh", "-euc", script], cwd=root, check=True)

        await inside(mounts, body)
        await snapshotter.commit(SnapshotName(name), key)
        return SnapshotName(name)

    async def test_changes_are_committed(self, snapshotter: Snapshotter) -> None:
        base = await self.change(
            snapshotter, "base", None, "mkdir d; echo -n 1 >d/a; echo -n 2 >b; chmod 644 b d/a"
        )
        top = await self.change(snapshotter, "top", base, "echo -n 3 >>d/a; rm b; mkdir -m 700 e")
        assert await self.tree(snapshotter, base) == {"b": "f 644 2", "d": "d 755", "d/a": "f 644 1"}
        assert await self.tree(snapshotter, top) == {"d": "d 755", "d/a": "f 644 13", "e": "d 700"}

    async def test_a_committed_snapshot_is_shown_without_a_trace(self, snapshotter: Snapshotter) -> None:
        base = await self.change(snapshotter, "base", None, "echo -n 1 >a; chmod 644 a")
        top = await self.change(snapshotter, "top", base, "echo -n 2 >b; chmod 644 b")
        await unpack(snapshotter, "layer", None, tar())
        before = [info.key async for info in snapshotter.walk()]
        for name, tree in ((base, {"a": "f 644 1"}), (top, {"a": "f 644 1", "b": "f 644 2"})):
            async with snapshotter.shown(name) as mounts:
                assert await inside(mounts, describe) == tree
                assert await inside(mounts, lambda root: os.access(root, os.W_OK)) is False
        async with snapshotter.shown(SnapshotName("layer")) as mounts:
            assert await inside(mounts, describe) == await self.tree(snapshotter, "layer")
        assert [info.key async for info in snapshotter.walk()] == before
        await snapshotter.prepare(SnapshotKey("active"), None)
        with pytest.raises(FailedPreconditionError):
            async with snapshotter.shown(SnapshotName("active")):
                pass
        with pytest.raises(NotFoundError):
            async with snapshotter.shown(SnapshotName("absent")):
                pass

    async def test_lower_files_and_directories_move(self, snapshotter: Snapshotter) -> None:
        base = await self.change(
            snapshotter, "base", None, "mkdir -p d/e g; echo -n 1 >d/e/a; echo -n 2 >f; chmod 644 f d/e/a"
        )
        top = await self.change(snapshotter, "top", base, "mv d moved; mv f d; rmdir g; ln -s d g")
        assert await self.tree(snapshotter, top) == {
            "d": "f 644 2",
            "g": "l d",
            "moved": "d 755",
            "moved/e": "d 755",
            "moved/e/a": "f 644 1",
        }
        last = await self.change(snapshotter, "last", top, "rm -r moved; mkdir moved; ln d hard")
        assert await self.tree(snapshotter, last) == {
            "d": "f 644 2",
            "g": "l d",
            "hard": "f 644 2",
            "moved": "d 755",
        }

    async def test_owner_and_mode_are_committed(self, snapshotter: Snapshotter) -> None:
        base = await self.change(snapshotter, "base", None, "mkdir d; touch d/f; chown 1:2 d/f; chmod 1777 d")
        top = await self.change(snapshotter, "top", base, "chown 3:4 d/f; chmod 4711 d/f; chmod 711 .")
        key = SnapshotKey("look")

        def look(root: Path) -> tuple[int, int, int, int, int]:
            status = (root / "d/f").stat()
            return (
                status.st_uid,
                status.st_gid,
                stat.S_IMODE(status.st_mode),
                stat.S_IMODE((root / "d").stat().st_mode),
                stat.S_IMODE(root.stat().st_mode),
            )

        assert await inside(await snapshotter.prepare(key, top), look) == (3, 4, 0o4711, 0o1777, 0o711)

    async def test_the_root_is_open_to_all(self, snapshotter: Snapshotter) -> None:
        layer = await unpack(snapshotter, "layer", None, tar(directory(".", mode=0o700), file("a")))
        for number, parent in enumerate((None, layer)):
            mounts = await snapshotter.prepare(SnapshotKey(f"k{number}"), parent)
            assert await inside(mounts, lambda root: stat.S_IMODE(root.stat().st_mode)) == 0o755

    async def test_a_view_is_read_only(self, snapshotter: Snapshotter) -> None:
        base = await unpack(snapshotter, "base", None, tar(file("a")))
        top = await unpack(snapshotter, "top", base, tar(file("b")))

        def attempt(root: Path) -> int:
            try:
                (root / "a").write_bytes(b"x")
            except OSError as exc:
                return exc.errno or 0
            return 0

        for number, parent in enumerate((None, base, top)):
            mounts = await snapshotter.view(SnapshotKey(f"v{number}"), parent)
            assert await inside(mounts, attempt) == errno.EROFS

    async def test_a_chain_of_128_layers(self, snapshotter: Snapshotter) -> None:
        parent = None
        for number in range(128):
            parent = await unpack(snapshotter, f"l{number}", parent, tar(file(f"f{number:03}")))
        assert parent is not None
        mounts = await snapshotter.prepare(SnapshotKey("top"), parent)

        def look(root: Path) -> int:
            (root / "mine").touch()
            return len(os.listdir(root))

        assert await inside(mounts, look) == 129

    async def test_active_snapshots_are_measured(self, snapshotter: Snapshotter) -> None:
        key = SnapshotKey("k")
        mounts = await snapshotter.prepare(key, None)
        before = await snapshotter.usage(key)
        await inside(mounts, lambda root: (root / "f").write_bytes(b"x" * 100_000))
        after = await snapshotter.usage(key)
        assert after.inodes == before.inodes + 1
        assert after.size >= before.size + 100_000
        await snapshotter.commit(SnapshotName("c"), key)
        assert await snapshotter.usage("c") == after

    async def test_differences_make_the_same_tree(self, snapshotter: Snapshotter, differ: Differ) -> None:
        base = await unpack(
            snapshotter,
            "base",
            None,
            tar(
                directory("etc"),
                file("etc/keep", b"k"),
                file("etc/gone"),
                file("etc/edit", b"1"),
                directory("old"),
                file("old/x"),
                directory("again"),
                file("again/x"),
            ),
        )
        key = SnapshotKey("work")
        mounts = await snapshotter.prepare(key, base)
        script = (
            "rm etc/gone; echo -n 2 >>etc/edit; rm -r old; rm -r again; mkdir again; echo -n n >again/new;"
            "mkdir -p new/dir; echo -n x >new/dir/f; ln new/dir/f new/hard; ln -s f new/link; mkfifo new/pipe;"
            "chown 5:6 new/dir; chmod 4755 new/dir/f"
        )

        def body(root: Path) -> None:
            subprocess.run(["/bin/sh", "-euc", script], cwd=root, check=True)
            os.setxattr(root / "new/dir/f", "trusted.mine", b"v")

        await inside(mounts, body)
        async with differ.open_diff(key) as stream:
            archive = await run(DISK, b"".join, stream)
        async with differ.open_diff(key) as stream:
            assert await run(DISK, b"".join, stream) == archive
        async with differ.open_diff(key, without=["new/pipe", "etc/edit"]) as stream:
            less = await run(DISK, b"".join, stream)
        assert (b"new/pipe" in archive, b"new/pipe" in less) == (True, False)
        assert b"etc/edit" in less  # it was there before
        again = await unpack(snapshotter, "again", base, archive)

        def full(root: Path) -> str:
            listing = subprocess.run(
                ["find", ".", "-mindepth", "1", "-printf", "%p %M %U %G %n %T@ %l\n"],
                cwd=root,
                check=True,
                capture_output=True,
                text=True,
            )
            value = os.getxattr(root / "new/dir/f", "trusted.mine")
            return "\n".join(sorted(listing.stdout.splitlines())) + repr(value)

        assert await inside(await snapshotter.view(SnapshotKey("v"), again), full) == await inside(
            mounts, full
        )
        kinds = {change.path: change.kind for change in await differ.changes(key)}
        add, modify, delete = ChangeKind.ADD, ChangeKind.MODIFY, ChangeKind.DELETE
        assert kinds == {
            "/again": modify,
            "/again/new": add,
            "/again/x": delete,
            "/etc": modify,
            "/etc/edit": modify,
            "/etc/gone": delete,
            "/new": add,
            "/new/dir": add,
            "/new/dir/f": add,
            "/new/hard": add,
            "/new/link": add,
            "/new/pipe": add,
            "/old": delete,
        }
        untouched = SnapshotKey("untouched")
        await snapshotter.prepare(untouched, base)
        assert await differ.changes(untouched) == []
        await inside(await snapshotter.mounts(untouched), lambda root: (root / "etc/keep").chmod(0o600))
        assert await differ.changes(untouched) == [Change("/etc", modify), Change("/etc/keep", modify)]

    async def test_the_upper_directory(self, snapshotter: Snapshotter) -> None:
        base = await unpack(snapshotter, "base", None, tar(file("a"), file("b")))
        key = SnapshotKey("k")
        await inside(await snapshotter.prepare(key, base), lambda root: (root / "a").unlink())
        try:
            async with snapshotter.upper(key) as upper:
                assert [entry.name for entry in os.scandir(upper)] == ["a"]
                status = os.stat(f"{upper}/a")
                assert (stat.S_ISCHR(status.st_mode), status.st_rdev) == (True, 0)
        except UnsupportedError:
            return
        with pytest.raises(FailedPreconditionError):
            async with snapshotter.upper(SnapshotKey(base)):
                pass
