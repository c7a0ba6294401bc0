"""Runtime: containerd shims over ttrpc.
Invariant: containers outlive this process; what is found again is what was left.
Start at:  service.py (the port), shim.py (one task), pool.py (which shim a container gets), launch.py (how shims start).
Imports:   core, formats, kit.  Never: another adapter.
Proved by: testing/runtime.py with real shims; tests/crash/test_runtime.py.
"""
