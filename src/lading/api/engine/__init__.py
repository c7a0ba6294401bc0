"""Engine API: Docker's HTTP API, 1.40 to 1.55.
Invariant: one total table from error class to status; the wire shapes are Docker's.
Start at:  server.py.
Imports:   images, containers, transfer, core.
Proved by: tests/e2e/ with the unmodified docker client.
"""
