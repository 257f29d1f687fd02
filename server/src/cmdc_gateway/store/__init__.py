"""Where sessions are kept: one protocol, and the stores that speak it."""
