"""Unpack: from layer blobs to committed snapshots.
Invariant: a layer is committed under its chain ID only if its diff ID was verified.
Start at:  unpacker.py.
Imports:   core ports, formats.
Proved by: tests/unit/unpack/, tests/e2e/.
"""
