"""Remotes: registries over HTTP.
Invariant: a credential goes only to the host it was meant for; nothing unverified is called verified.
Start at:  resolver.py.
Imports:   core, kit, oci.  Never: another adapter.
Proved by: testing/remotes.py against a real registry and a hostile one.
"""
