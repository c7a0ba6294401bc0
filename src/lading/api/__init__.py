"""Edges: translate protocols into service calls. Edges do not know each other."""
