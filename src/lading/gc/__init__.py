"""Garbage collector: mark what is needed, delete the rest, never block a call.
Invariant: nothing reachable from a root is deleted; one failure never stops a sweep.
Start at:  collector.py.
Imports:   core ports.
Proved by: tests/unit/gc/, tests/stateful/.
"""
