"""Sharing the build cache: in a registry, in a directory of the client, in the image itself; both ways with BuildKit.

Invariant: what is imported is only looked at; a blob of it is verified before anything is made of it.
Start at:  exporting.py (what a cache says), importing.py (how it is found), places.py (where it is).
Imports:   ops, solver, transfer, core, formats, oci, kit.
Proved by: tests/unit/builder/caching/.
"""
