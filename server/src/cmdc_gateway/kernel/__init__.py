"""The agent, decided: what follows from what has happened. No clock, no network, no event loop."""
