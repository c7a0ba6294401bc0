"""Content: blobs in files below one root, in containerd's layout.
Invariant: a row is written after its file is durable; a file is deleted after its row is gone.
Start at:  local.py, then writer.py (the blob protocol).
Imports:   core, kit, oci.  Never: another adapter.
Proved by: testing/content.py, tests/crash/test_store.py, tests/stateful/.
"""
