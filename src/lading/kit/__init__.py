"""Kit: small domain-free tools: threads, files, Linux system calls, retries.
Invariant: nothing here knows what an image is.
Start at:  aio.py (how anything blocking leaves the event loop).
Imports:   errors.  Never: any other room.
Proved by: tests/unit/kit/.
"""
