"""Changes of files in a tree that strangers filled. Everything here blocks, and belongs on a data thread.

Invariant: every path is resolved by the kernel inside the tree's root (openat2), links included; nothing is ever outside.
Start at:  actions.py.
Imports:   formats, kit.  Never: snapshots, solver.
Proved by: tests/unit/builder/ops/.
"""
