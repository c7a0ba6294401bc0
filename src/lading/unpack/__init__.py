"""Unpack: from layer blobs to committed snapshots.
Invariant: a layer is committed under its chain ID only if its blob's digest and its diff ID were verified.
Start at:  unpacker.py; arriving.py says how a blob is read while it is being downloaded.
Imports:   core ports, formats, kit, oci.  Never: an adapter, transfer.
Proved by: tests/unit/unpack/, tests/unit/transfer/test_concurrency.py.
"""
