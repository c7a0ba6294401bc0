"""gRPC over any byte stream, as server or as client of one connection.

Invariant: a connection is one context; every call on it ends with it, and nothing of a call outlives its context.
Start at:  connection.py (HTTP/2), then server.py and client.py.
Imports:   errors. Never: anything of this package's domain.
Proved by: tests/unit/kit/test_grpc.py.
"""
