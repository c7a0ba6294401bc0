"""Run by test_store.py in a process of its own, which a failpoint may end: stores, tags and collects, telling what it finished."""

import sys
from pathlib import Path

import anyio
from support.stores import describe, open_stores

from lading.core.content import IngestRef
from lading.errors import AlreadyExistsError, LadingError
from lading.kit import aio
from lading.oci.digest import Digest


def say(*words: str) -> None:
    sys.stdout.write(" ".join(words) + "\n")
    sys.stdout.flush()


async def main(root: Path) -> None:
    async with open_stores(root) as stores:
        images = stores.database.images("moby")
        for number in range(3):
            data = bytes([number]) * 100_000
            lease = (await stores.database.leases("moby").create()).id
            try:
                async with stores.content.open_writer(
                    IngestRef(f"r{number}"), expected=describe(data), lease=lease
                ) as writer:
                    for start in range(writer.offset, len(data), 40_000):
                        await aio.run(aio.DATA, writer.write, data[start : start + 40_000])
                    await writer.commit()
                say("stored", str(number))
            except AlreadyExistsError:
                say("stored", str(number))
            except LadingError as exc:
                say("failed", str(number), exc.code)
                continue
            await images.put(f"image-{number}", describe(data))
            say("tagged", str(number))
            await stores.database.leases("moby").delete(lease)
        kept = describe(bytes([2]) * 100_000).digest
        if kept in await stores.content.intact([kept]):
            await stores.content.update(kept, {"copy": "yes"})
            await stores.content.release(kept)
            async with stores.content.open_reader(kept) as reader:
                say("restored", str(reader.size))
        lease = (await stores.database.leases("moby").create()).id
        small = [b"small", b"smaller"]
        await stores.content.put_many({Digest.of(data): data for data in small}, lease=lease)
        await images.put("small", describe(b"small"))
        say("many")
        await stores.database.leases("moby").delete(lease)
        if "image-0" in [image.name for image in await images.list()]:
            await images.delete("image-0")
        say("untagged", "0")
        await stores.collector.collect()
        say("collected", "0")


anyio.run(main, Path(sys.argv[1]))
