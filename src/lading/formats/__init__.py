"""Formats: bytes in, values or bytes out; no file, socket or loop.
Invariant: hostile input raises a typed error, holds bounded memory and never loops.
Start at:  tar/parser.py, compression.py.
Imports:   errors, oci.
Proved by: tests/unit/formats/, every branch, and against second implementations.
"""
