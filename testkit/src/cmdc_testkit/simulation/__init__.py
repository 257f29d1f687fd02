"""A deterministic simulation of gateways: time, scheduling and faults derive from one seed, so failures reproduce."""
