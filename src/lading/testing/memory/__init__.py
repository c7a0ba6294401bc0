"""Fakes: adapters of the ports that live in memory.
Invariant: each passes the same conformance suite as the real adapter, so a test may use it in its place.
Start at:  remotes.py, the smallest one.
Imports:   core, oci, errors.  Never: an adapter, a service.
Proved by: tests/conformance/.
"""
