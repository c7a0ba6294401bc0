"""Metadata: SQLite rows behind every store.
Invariant: one writer thread; short transactions, never held across I/O; durable when acknowledged.
Start at:  database.py, schema/.
Imports:   core, kit, oci.  Never: another adapter.
Proved by: testing/metadata.py and the suites of the ports it implements.
"""
