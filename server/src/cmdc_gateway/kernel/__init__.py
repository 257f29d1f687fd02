"""The agent's decisions, as pure functions of what has happened: no clock, no network, no event loop."""
