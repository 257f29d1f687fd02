"""Support for this repository's tests and benchmarks: gateways, clients, and faults to inject."""
