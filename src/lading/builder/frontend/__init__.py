"""The Dockerfile frontend: options and files to graphs, image configs and remarks. What BuildKit's ``dockerfile.v0`` does.
Invariant: it does no I/O; everything comes through the `Gateway`. It never says how an operation is done.
Start at:  frontend.py (the whole run), plan.py (which stages), dispatch.py (one function per instruction).
Imports:   model, formats.dockerfile, formats.llb, oci.  Never: solver, ops, adapters, edges.
Proved by: tests/unit/builder/frontend/test_corpus.py (what BuildKit made of tests/corpus/).
"""
