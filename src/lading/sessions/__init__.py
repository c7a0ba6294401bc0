"""Sessions: what a building client lends, called over the connection that it opened.

Invariant: what a client names is written below the given directory and nowhere else; secrets are handed on, never kept.
Start at:  core/session.py (contract), registry.py, client.py.
Imports:   core, formats, kit, oci.  Never: other adapters, services.
Proved by: testing/sessions.py; tests/conformance/test_sessions.py.
"""
