"""What an agent can do: tools of the gateway's own, and tools behind an HTTP callback."""
