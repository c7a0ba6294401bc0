"""Pull an image, list what is there, give it a name, export it, and look into it.

Run it as root: ``python examples/library.py DATA-ROOT IMAGE``
"""

import sys
from pathlib import Path

import anyio

import lading


async def main(data_root: str, name: str) -> None:
    async with lading.open_store(data_root) as store:
        image = await store.pull(name)
        print(f"pulled {image.name}: {image.id}, {image.size} bytes here")

        await store.tag(image.name, "example/copy:mine")
        for each in await store.images():
            print("has", ", ".join(each.tags))

        await store.export("example/copy:mine", Path(data_root) / "copy.tar")

        async with store.mount(image.name) as root:
            print("root holds", ", ".join(sorted(entry.name for entry in root.iterdir())))


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:3])
