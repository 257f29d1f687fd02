"""Test support shared by this repository's tests and benchmarks: gateways to test against, clients, and fault injection."""
