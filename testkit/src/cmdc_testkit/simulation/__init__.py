"""Whole gateways in a world where time, chance and every fault come from one seed, so that any failure comes back."""
