"""What the operations of a definition do: sources, files, processes, merges.

Invariant: a path of a tree is resolved by the kernel inside it; nothing stays mounted, running or half made.
Start at:  factory.py (which operation is which), trees.py (what they give each other).
Imports:   solver, containers, transfer, core, formats, kit, oci.
Proved by: tests/unit/builder/ops/.
"""
