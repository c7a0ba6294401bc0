"""EROFS: the kernel's read-only file system, written and read as metadata over external data devices.
Invariant: whatever `writer` makes mounts and passes fsck.erofs; `reader` never reads outside the image it was given.
Start at:  layout.py (the format), tree.py (what an image is made from), writer.py (a tree in, an image out).
Imports:   errors.  Never: files, sockets, another format.
Proved by: tests/unit/formats/erofs/, with erofs-utils and the kernel as judges.
"""
