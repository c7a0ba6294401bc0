"""Bounds on what an image from elsewhere may be (hostile-input.md, D rows)."""

from typing import Final

INDEX_DEPTH: Final = 8
"""Indexes inside indexes."""
DESCRIPTORS: Final = 10_000
"""Descriptors that one target may lead to."""
ARCHIVE_JSON: Final = 20 * 1024 * 1024
"""Bytes of one document in an archive."""
ARCHIVE_ENTRIES: Final = 200_000
"""Members of an archive."""
LEASE_HOURS: Final = 8
"""How long what an interrupted transfer left is kept, so that it can be taken up again."""
MAX_DOWNLOADS: Final = 3
"""Layers that are downloaded at a time, of all images together (dockerd's ``max-concurrent-downloads``)."""
MAX_UPLOADS: Final = 5
"""Blobs that are uploaded at a time, of all images together (dockerd's ``max-concurrent-uploads``)."""
IMAGES_AT_ONCE: Final = 32
"""Images of one archive that are looked through and named at a time: they share the waits for the disk."""
