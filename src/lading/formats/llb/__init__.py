"""LLB: BuildKit's graph of build operations, as bytes and as values (``pb/ops.proto``).
Invariant: an operation's digest is that of its bytes as received or as first made; nothing is encoded again to compute it.
Start at:  graph.py (bytes to a checked graph), make.py (the other way), ops.py (the values).
Imports:   oci, errors.  Never: files, sockets, loops.
Proved by: tests/unit/formats/llb/.
"""
