"""What the gateway costs, measured against servers that are run beside it."""
