"""The lading command: what docker has no word for, over the daemon's public API.
Invariant: --help imports nothing that it does not need.
Start at:  ../__main__.py.
Proved by: tests/e2e/.
"""
