"""Layers for tests, member by member, so that a test says what an archive holds rather than what a directory did."""

from lading.core.leases import LeaseID
from lading.core.snapshots import NO_LABELS, Labels, SnapshotName, Snapshotter
from lading.formats import whiteouts
from lading.formats.tar import writer
from lading.formats.tar.entry import Entry, EntryType
from lading.kit.aio import DATA, run
from lading.oci.digest import DiffID

Member = Entry | tuple[Entry, bytes]
TIME = 1_600_000_000_123_456_789


def file(
    name: str,
    data: bytes = b"",
    *,
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    mtime: int = TIME,
    xattrs: dict[str, bytes] | None = None,
) -> Member:
    """A regular file."""
    entry = Entry(
        name=name,
        type=EntryType.FILE,
        mode=mode,
        uid=uid,
        gid=gid,
        mtime=mtime,
        size=len(data),
        real_size=len(data),
        xattrs=xattrs or {},
    )
    return entry, data


def directory(
    name: str,
    *,
    mode: int = 0o755,
    uid: int = 0,
    gid: int = 0,
    mtime: int = TIME,
    xattrs: dict[str, bytes] | None = None,
) -> Member:
    """A directory."""
    return Entry(
        name=f"{name}/",
        type=EntryType.DIRECTORY,
        mode=mode,
        uid=uid,
        gid=gid,
        mtime=mtime,
        xattrs=xattrs or {},
    )


def symlink(name: str, target: str, *, uid: int = 0, xattrs: dict[str, bytes] | None = None) -> Member:
    """A symbolic link."""
    return Entry(
        name=name,
        type=EntryType.SYMLINK,
        linkname=target,
        mode=0o777,
        uid=uid,
        mtime=TIME,
        xattrs=xattrs or {},
    )


def hardlink(name: str, target: str) -> Member:
    """A hard link to a member with the default attributes of `file`."""
    return Entry(name=name, type=EntryType.HARDLINK, linkname=target, mode=0o644, mtime=TIME)


def device(name: str, type: EntryType, major: int, minor: int, *, mode: int = 0o600) -> Member:
    """A device node, or a FIFO with 0 and 0."""
    return Entry(name=name, type=type, mode=mode, devmajor=major, devminor=minor, mtime=TIME)


def whiteout(path: str) -> Member:
    """The deletion of a path of the layers below."""
    return whiteouts.whiteout(path)


def opaque(path: str) -> Member:
    """The hiding of all that the layers below have in a directory."""
    return whiteouts.opaque(path)


def tar(*members: Member) -> bytes:
    """The archive of these members, in this order."""
    parts: list[bytes] = []
    for member in members:
        entry, data = member if isinstance(member, tuple) else (member, b"")
        parts += [writer.header(entry), data, writer.padding(len(data))]
    return b"".join([*parts, writer.END])


async def unpack(
    snapshotter: Snapshotter,
    name: str,
    parent: str | None,
    archive: bytes,
    *,
    lease: LeaseID | None = None,
    chunk: int = 1 << 18,
    labels: Labels = NO_LABELS,
) -> SnapshotName:
    """Unpack an archive as a layer, in chunks; its name."""
    async with snapshotter.open_layer(
        SnapshotName(name),
        None if parent is None else SnapshotName(parent),
        diff_id=DiffID.of(archive),
        lease=lease,
    ) as layer:

        def feed() -> None:
            for start in range(0, len(archive), chunk):
                layer.write(memoryview(archive)[start : start + chunk])
            layer.finish()

        await run(DATA, feed)
        await layer.commit(labels=labels)
    return SnapshotName(name)
