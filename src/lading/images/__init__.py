"""Images: what users call an image: names, lists, tags, deletion, sizes.
Invariant: no list walks the disk.
Start at:  service.py.
Imports:   transfer, core ports.
Proved by: tests/e2e/ with the docker client.
"""
