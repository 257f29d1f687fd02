"""Tools that agents can call: those that run in the server, and callback tools, which are called over HTTP."""
