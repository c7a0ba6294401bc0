"""Whether dockerd would find a classic store whole: every file that it reads, and that every layer gives its bytes."""

import hashlib
import json
import os
from collections.abc import Collection
from pathlib import Path

from lading.classic import assemble
from lading.classic.imagedb import ImageDatabase, Names
from lading.classic.layerdb import SPLIT, LayerDatabase
from lading.classic.layout import Layout
from lading.oci.config import parse


def problems(root: Path, ours: Collection[str] = ()) -> list[str]:
    """What is wrong with the store of a data-root that nobody has open; of the trees ``ours`` Lading alone knows."""
    layout = Layout(root)
    database = LayerDatabase(layout)
    layers = {layer.chain_id: layer for layer in database.layers()}
    found = [
        f"layer {name} is not whole" for name in os.listdir(layout.layers) if f"sha256:{name}" not in layers
    ]
    for layer in layers.values():
        tree = layout.trees / layer.tree
        link = (tree / "link").read_text()
        if (layout.trees / "l" / link).resolve() != (tree / "diff").resolve():
            found.append(f"{layer.tree}: its short name leads elsewhere")
        if layer.parent is not None:
            above = layout.trees / layers[layer.parent].tree
            lower = [f"l/{(above / 'link').read_text()}"]
            if (above / "lower").exists():
                lower += (above / "lower").read_text().split(":")
            if (tree / "lower").read_text() != ":".join(lower):
                found.append(f"{layer.tree}: lower is {(tree / 'lower').read_text()}")
            if not (above / "committed").exists():
                found.append(f"{above.name}: not marked as committed")
        hasher = hashlib.sha256()
        for piece in assemble.stream(tree / "diff", database.directory(layer.chain_id) / SPLIT):
            hasher.update(piece)
        if f"sha256:{hasher.hexdigest()}" != layer.diff_id:
            found.append(f"layer {layer.chain_id} gives other bytes")
    images = ImageDatabase(layout)
    for image in images.ids():
        chain = parse(images.config(image)).chain
        if chain and chain[-1] not in layers:
            found.append(f"image {image} has no layers")
    found += [
        f"{name} has no image" for name, image in Names(layout).read().items() if image not in images.ids()
    ]
    trees = (
        {layer.tree for layer in layers.values()} | {mount.tree for mount in database.mounts()} | set(ours)
    )
    found += [f"nothing needs tree {name}" for name in set(os.listdir(layout.trees)) - trees - {"l"}]
    links = {
        (layout.trees / name / "link").read_text()
        for name in trees
        if (layout.trees / name / "link").exists()
    }
    found += [f"nothing needs short name {name}" for name in set(os.listdir(layout.trees / "l")) - links]
    found += [f"left behind: {name}" for name in os.listdir(layout.drafts)]
    return found


def names(root: Path) -> dict[str, str]:
    """Every name and its image's ID."""
    text = (root / "image" / "overlay2" / "repositories.json").read_text()
    return {name: id_ for names_ in json.loads(text)["Repositories"].values() for name, id_ in names_.items()}
