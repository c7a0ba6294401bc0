"""BuildKit's wire: messages of its control, bridge, session and content services, and how errors and file trees travel.

Invariant: field numbers are BuildKit's (v0.25); nothing here knows what a message is for.
Start at:  _pb/control.proto.
Imports:   oci, errors. Never: anything that does I/O.
Proved by: tests/unit/formats/test_buildkit.py.
"""
