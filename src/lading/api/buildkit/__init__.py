"""BuildKit's protocol: what the real ``docker build`` and buildx talk to.

Invariant: this edge translates; what a build is stands in builder/.
Start at:  server.py.
Imports:   builder, core, formats, kit, oci.  Never: adapters, other edges.
Proved by: tests/unit/api/test_buildkit.py.
"""
