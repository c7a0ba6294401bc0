"""Snapshots: turn layers into mountable trees.
Invariant: a committed snapshot never changes; an active one is never a parent.
Start at:  core/snapshots.py (contract), overlay.py.
Imports:   core, formats, kit, oci.  Never: another adapter, services.
Proved by: testing/snapshots.py; tests/crash/.
"""
