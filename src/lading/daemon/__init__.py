"""Composition root: configuration, wiring, lifecycle. The only place that names adapters.
Start at:  wiring.py.
"""
