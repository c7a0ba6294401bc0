"""Ports: contracts that adapters implement and services use.
Invariant: no I/O, and no adapter is named here.
Start at:  content.py, snapshots.py.
Imports:   errors, oci.
Proved by: the conformance suites of lading.testing, run on every adapter and fake.
"""
