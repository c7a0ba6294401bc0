"""Names in the containerd store: a record points to what was stored, whole."""

import contextlib
from collections.abc import Mapping

from typing_extensions import override

from lading.core import images
from lading.core.images import Pointed
from lading.core.labels import PARENT
from lading.errors import NotFoundError
from lading.kit.tasks import KeyedLock
from lading.oci.descriptor import Descriptor
from lading.oci.reference import Reference, dangling_name


class TargetNaming(images.Naming):
    """`images.Naming` by the rules of Docker's containerd store. One per namespace."""

    def __init__(self, records: images.Store) -> None:
        self._records = records
        self._names = KeyedLock()

    @override
    async def point(
        self,
        name: str | None,
        target: Descriptor,
        *,
        manifest: Descriptor | None = None,
        source: Reference | None = None,
        labels: Mapping[str, str] | None = None,
        keep_displaced: bool = True,
    ) -> Pointed:
        if name is None:
            if named := await self._records.by_target(target.digest):
                return Pointed(image=named[0], replaced=named[0])
            name = dangling_name(target.digest)
        async with self._names.hold(name):
            try:
                before = await self._records.get(name)
            except NotFoundError:
                old = None
            else:
                old = before.target
                if labels is None and old.digest != target.digest:  # it says nothing of the new target
                    labels = {key: value for key, value in before.labels.items() if key != PARENT}
            displaced = dangling_name(old.digest) if old and keep_displaced else None
            pointed = await self._records.put(name, target, labels=labels, displaced=displaced)
            dangling = dangling_name(target.digest)
            if dangling != name:
                with contextlib.suppress(NotFoundError):
                    await self._records.delete(dangling)
            return pointed
