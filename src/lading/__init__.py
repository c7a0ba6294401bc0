"""Lading: the containerd image store, in Python.

Open a store with `lading.library.open_store`; run the daemon with ``lading daemon``. ARCHITECTURE.md is the map.
"""
