"""What this repository's own tests and benchmarks share: gateways to test against, clients, and faults to put them through."""
