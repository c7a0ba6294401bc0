"""Runtime: containerd shims over ttrpc.
Invariant: containers outlive this process; what is found again is what was left.
Start at:  shim.py.
Imports:   core, kit, oci.  Never: another adapter.
Proved by: testing/runtime.py with real shims.
"""
