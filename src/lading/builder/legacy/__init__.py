"""The legacy builder (``POST /build``): a Dockerfile step by step, for clients without BuildKit. A second door to the solver.
Invariant: what is built, and cached, is the frontend's graph; only order, words and refusals are the old builder's.
Start at:  build.py (the run), wish.py (what is asked), session.py (an uploaded context as a session).
Imports:   builder.frontend, builder.control, builder.ops.files, core.  Never: adapters, edges.
Proved by: tests/unit/builder/legacy/, tests/e2e/test_legacy_builder.py.
"""
