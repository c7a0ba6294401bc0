"""The builder: definitions solved into snapshots, and these exported; what ``docker build`` talks to.
Invariant: the solver knows vertices, edges and cache keys, and nothing of containers; operations are given to it.
Start at:  model.py (who promises what to whom).
Imports:   images, containers, transfer, core, formats, oci, kit.  Never: adapters, edges.
Proved by: tests/unit/builder/.
"""
