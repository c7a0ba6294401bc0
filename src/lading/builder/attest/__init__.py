"""Attestations: what a build says of its result, as in-toto predicates.

Invariant: an attestation tells what is known, from the graph itself; no secret's value is ever in one.
Start at:  finisher.py; provenance.py and its two shapes.
Imports:   builder.model, formats, oci, kit, core.  Never: adapters, the solver's insides.
Proved by: tests/unit/builder/attest/.
"""
