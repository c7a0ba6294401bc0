"""Containers: create, run, watch and remove them; the service behind ``docker run``.
Invariant: what a container writes reaches its log exactly once, whatever happens to the daemon (ADR 0080).
Start at:  service.py (what can be asked for), lifecycle.py (how a container lives), launching.py (what its run needs),
journal.py (why no line is lost), tree.py (how its files are reached), spec.py (what the runtime is told).
Imports:   transfer, core, oci, kit.  Never: images, adapters.
Proved by: tests/unit/containers/, tests/crash/test_container_logs.py, tests/e2e/test_containers.py,
tests/e2e/test_container_files.py, tests/e2e/test_container_config.py, tests/e2e/test_live_restore.py.
"""
