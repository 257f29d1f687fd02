"""Open streams: server-sent events, WebSockets, heartbeats, connections and cursors."""
