"""Volumes on this machine: directories below the data-root, and what mount(8) finds for a volume with options.
Invariant: a row that promises a directory is written after the directory; a directory is deleted after its row.
Start at:  local.py (the port), devices.py (volumes that are mounted).
Imports:   core, kit.  Never: other adapters, services.
Proved by: testing/volumes.py; tests/conformance/test_local_volumes.py, tests/e2e/test_volumes.py.
"""
