"""Remotes: the registry client (OCI distribution-spec v1.1, Docker registry v2).
Invariant: a credential goes only to the host it was given for; bytes are delivered in order, exactly once.
Start at:  registries.py (what is shared), session.py (one request: hosts, tokens, retries), fetcher.py.
Imports:   core, kit, oci, errors.  Never: another adapter.
Proved by: tests/conformance/test_remotes.py, tests/unit/remotes/ (one attack and one twin per R row).
"""
