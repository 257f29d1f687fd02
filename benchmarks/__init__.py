"""Benchmarks: what the gateway costs, compared with reference servers that run on the same machine."""
