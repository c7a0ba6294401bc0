"""Rows of images."""

from collections.abc import Mapping
from typing import Any, Final, TypeVar

from typing_extensions import override

from lading.core import images, references
from lading.core import labels as label_rules
from lading.core.images import Image, Pointed
from lading.core.leases import LeaseID, Resource
from lading.core.metadata import Namespace, Node
from lading.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError
from lading.kit.sqlite import Call, Connection
from lading.metadata.codec import dump, load_descriptor, load_text_map, to_time
from lading.metadata.holding import hold
from lading.metadata.session import Session
from lading.oci.descriptor import Descriptor
from lading.oci.digest import ALGORITHMS

T = TypeVar("T")
_SELECT: Final = "SELECT name, target, created, updated, labels FROM image WHERE namespace = ?"
_INSERT: Final = "INSERT INTO image (namespace, name, digest, target, created, updated, labels) VALUES (?, ?, ?, ?, ?, ?, ?)"
_HEX: Final = frozenset("0123456789abcdef")


def _image(row: tuple[Any, ...]) -> Image:
    name, target, created, updated, labels = row
    return Image(
        name=name,
        target=load_descriptor(target),
        created_at=to_time(created),
        updated_at=to_time(updated),
        labels=load_text_map(labels),
    )


class SqliteImages(images.Store):
    """`images.Store` of one namespace."""

    def __init__(self, session: Session, namespace: Namespace) -> None:
        self._session = session
        self._namespace = namespace

    def _find(self, connection: Connection, name: str) -> Image | None:
        row = connection.execute(f"{_SELECT} AND name = ?", (self._namespace, name)).fetchone()
        return None if row is None else _image(row)

    def _get(self, connection: Connection, name: str) -> Image:
        if (image := self._find(connection, name)) is None:
            raise NotFoundError(f"no image {name}", subject=name)
        return image

    def _insert(
        self, connection: Connection, name: str, target: Descriptor, labels: Mapping[str, str]
    ) -> None:
        now = self._session.now()
        row = (self._namespace, name, target.digest, dump(target), now, now, dump(labels))
        connection.execute(_INSERT, row)
        self._touch(name, target, labels)

    def _touch(self, name: str, target: Descriptor, labels: Mapping[str, str]) -> None:
        nodes = [Node("image", name), Node("content", target.digest), *references.forward(labels)]
        self._session.touch(self._namespace, nodes)

    @override
    async def get(self, name: str) -> Image:
        return await self._session.read(lambda connection: self._get(connection, name), few=True)

    @override
    async def list(self) -> "list[Image]":
        version = self._session.images_version(self._namespace)
        known, images = self._session.image_lists.get(self._namespace, (-1, []))
        if known != version:
            images = await self._session.read(self._list)
            self._session.image_lists[self._namespace] = (version, images)
        return images.copy()

    def _list(self, connection: Connection) -> "list[Image]":
        return [_image(row) for row in connection.execute(f"{_SELECT} ORDER BY name", (self._namespace,))]

    async def _write(self, call: Call[T], *, frees: bool = False) -> T:
        def job(connection: Connection) -> T:
            self._session.images_changed(self._namespace)
            return call(connection)

        return await self._session.write(self._namespace, job, frees=frees)

    @override
    async def by_target(self, digest_prefix: str) -> "list[Image]":
        prefixes = [digest_prefix]
        if ":" not in digest_prefix:
            prefixes = [f"{algorithm}:{digest_prefix}" for algorithm in ALGORITHMS]
        if not _HEX.issuperset(digest_prefix.rpartition(":")[2]):
            return []

        def job(connection: Connection) -> "list[Image]":
            found: dict[str, Image] = {}
            for prefix in prefixes:
                # "g" follows every hexadecimal digit, so the range holds just the digests that begin so.
                rows = connection.execute(
                    f"{_SELECT} AND digest >= ? AND digest < ?", (self._namespace, prefix, prefix + "g")
                )
                found.update((row[0], _image(row)) for row in rows)
            return [found[name] for name in sorted(found)]

        return await self._session.read(job)

    @override
    async def create(
        self,
        name: str,
        target: Descriptor,
        *,
        labels: Mapping[str, str] | None = None,
        lease: LeaseID | None = None,
    ) -> Image:
        _check(name, labels)

        def job(connection: Connection) -> Image:
            if self._find(connection, name) is not None:
                raise AlreadyExistsError(f"image {name} exists", subject=name)
            self._insert(connection, name, target, labels or {})
            if lease is not None:
                hold(self._session, connection, self._namespace, lease, Resource(kind="image", id=name))
            return self._get(connection, name)

        return await self._write(job)

    @override
    async def put(
        self,
        name: str,
        target: Descriptor,
        *,
        labels: Mapping[str, str] | None = None,
        displaced: str | None = None,
    ) -> Pointed:
        _check(name, labels)

        def job(connection: Connection) -> Pointed:
            old = self._find(connection, name)
            if old is None:
                self._insert(connection, name, target, labels or {})
                return Pointed(image=self._get(connection, name), replaced=None)
            kept = old.labels if labels is None else labels
            connection.execute(
                "UPDATE image SET digest = ?, target = ?, labels = ?, updated = ? WHERE namespace = ? AND name = ?",
                (target.digest, dump(target), dump(kept), self._session.now(), self._namespace, name),
            )
            self._touch(name, target, kept)
            if displaced is not None and old.target.digest != target.digest:
                self._keep_displaced(connection, displaced, old.target)
            return Pointed(image=self._get(connection, name), replaced=old)

        return await self._write(job)

    def _keep_displaced(self, connection: Connection, name: str, target: Descriptor) -> None:
        """Name a target that lost its last name, unless the new name is taken."""
        others = connection.execute(
            "SELECT 1 FROM image WHERE namespace = ?1 AND (digest = ?2 OR name = ?3) LIMIT 1",
            (self._namespace, target.digest, name),
        )
        if others.fetchone() is None:
            self._insert(connection, name, target, {})

    @override
    async def update(self, name: str, *, labels: Mapping[str, str | None]) -> Image:
        label_rules.check(labels)

        def job(connection: Connection) -> Image:
            old = self._get(connection, name)
            merged = label_rules.merge(old.labels, labels)
            connection.execute(
                "UPDATE image SET labels = ?, updated = ? WHERE namespace = ? AND name = ?",
                (dump(merged), self._session.now(), self._namespace, name),
            )
            self._touch(name, old.target, merged)
            return self._get(connection, name)

        return await self._write(job)

    @override
    async def delete(self, name: str, *, target: Descriptor | None = None) -> Image:
        def job(connection: Connection) -> Image:
            image = self._get(connection, name)
            if target is not None and image.target.digest != target.digest:
                raise NotFoundError(f"image {name} points to {image.target.digest} by now", subject=name)
            connection.execute("DELETE FROM image WHERE namespace = ? AND name = ?", (self._namespace, name))
            return image

        return await self._write(job, frees=True)


def _check(name: str, labels: Mapping[str, str] | None) -> None:
    if not name:
        raise InvalidArgumentError("an image needs a name")
    label_rules.check(labels or {})
