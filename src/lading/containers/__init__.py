"""Containers: from a create request to a running process and back.
Invariant: a field that cannot be honoured is refused by name, never ignored.
Start at:  service.py.
Imports:   transfer, core ports.
Proved by: tests/e2e/ with the docker client.
"""
