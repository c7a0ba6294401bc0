"""In-memory fakes of the ports, held to the same conformance suites as the real adapters."""
