"""Values: what the OCI and Docker specifications define.
Invariant: immutable, no I/O; the raw bytes of a document stay its truth.
Start at:  digest.py, descriptor.py, reference.py.
Imports:   errors.
Proved by: tests/unit/oci/, every branch.
"""
