"""Transfer: pull, push, save, load, import.
Invariant: an image record appears after all it promises is durable, held by a lease until then.
Start at:  service.py (the door), pull.py.
Imports:   unpack, core ports, formats, kit, oci.  Never: an adapter.
Proved by: tests/unit/transfer/, tests/e2e/.
"""
