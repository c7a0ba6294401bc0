"""Transfer: pull, push, save, load, import, export.
Invariant: an image record appears after all it promises is durable, held by a lease until then.
Start at:  pull.py.
Imports:   unpack, core ports, formats.
Proved by: tests/e2e/.
"""
