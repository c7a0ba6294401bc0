"""Many small blobs at once: written together, flushed together, so that the disk waits once and not for each.

The protocol is a writer's (`lading.content.writer`): nothing has its name before it is durable, and no row before its name is.
"""

import os
from collections.abc import Collection, Mapping
from pathlib import Path

from lading.content.files import LocalFiles, translate
from lading.core.content import DigestMismatchError
from lading.kit import fs
from lading.kit.failpoints import failpoint
from lading.oci.digest import Digest


def check_digests(blobs: Mapping[Digest, bytes]) -> None:
    """Raise `DigestMismatchError` for the first that is not what its digest says."""
    for digest, data in blobs.items():
        if not digest.matches(data):
            raise DigestMismatchError(
                f"the bytes for {digest} have another digest",
                hint="fetch them again; if that fails too, their source is damaged",
                subject=digest,
            )


def place_many(
    files: LocalFiles, directory: Path, blobs: Mapping[Digest, bytes], known: Collection[Digest | str]
) -> None:
    """Write blobs below ``directory``, make them durable, and move them to their places. Blocking; undone by deleting it.

    Those that are ``known`` have a row already: they are written only if their file is lost.
    """
    files.prepare()
    new = [digest for digest in blobs if digest not in known or files.size(digest) != len(blobs[digest])]
    if new:
        _place(files, directory, {digest: blobs[digest] for digest in new})


def _place(files: LocalFiles, directory: Path, blobs: Mapping[Digest, bytes]) -> None:
    try:
        directory.mkdir(mode=0o700)
        paths = {digest: directory / str(number) for number, digest in enumerate(blobs)}
        for digest, path in paths.items():
            _write(path, blobs[digest])
        failpoint("many.written")
        for path in paths.values():
            _flush(path)
        for digest, path in paths.items():
            files.place(path, digest, len(blobs[digest]))
        failpoint("many.renamed")
        for parent in {files.blob(digest).parent for digest in blobs}:
            fs.fsync_directory(parent)
    except OSError as exc:
        raise translate(exc, f"{len(blobs)} blobs", files.root) from exc


def _write(path: Path, data: bytes) -> None:
    """Write a file and begin to write it back: the first flush then finds all of them on their way."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fs.write_all(fd, data)
        os.fchmod(fd, 0o444)
        fs.start_writeback(fd, 0, len(data))
    finally:
        os.close(fd)


def _flush(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
