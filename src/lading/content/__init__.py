"""Content: blobs in containerd's on-disk layout.
Invariant: a blob is visible only after written, verified, fsync, rename, fsync of its directory.
Start at:  local.py.
Imports:   core, kit, oci.  Never: another adapter.
Proved by: testing/content.py; tests/crash/.
"""
