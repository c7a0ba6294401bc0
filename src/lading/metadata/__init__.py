"""Metadata: SQLite rows behind every store.
Invariant: one writer thread; short transactions, never held across I/O; durable when acknowledged.
Start at:  database.py, schema/, session.py.
Imports:   core, kit, oci.  Never: another adapter.
Proved by: testing/metadata.py, tests/unit/metadata/, tests/stateful/, tests/crash/test_store.py.
"""
