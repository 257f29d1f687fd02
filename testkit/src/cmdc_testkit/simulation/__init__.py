"""Deterministic simulation: whole gateways with time, randomness and faults derived from one seed, for exact replay."""
