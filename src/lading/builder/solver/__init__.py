"""The solver: vertices, edges and cache keys; what an operation does is injected.

Invariant: the same work is done once, for whoever wants it; it ends when nobody wants it any more.
Start at:  operation.py (what an operation promises), scheduler.py (when what is done).
Imports:   core, kit, oci. Never: containers, snapshots, formats.
Proved by: tests/stateful/test_solver.py, tests/unit/builder/solver/.
"""
