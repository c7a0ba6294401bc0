"""Published conformance suites, in-memory fakes and fault-injecting wrappers.
Subclass a suite, provide its fixture, and every promise of the port is checked against your adapter.
"""
