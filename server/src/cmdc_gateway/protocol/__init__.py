"""The wire format: bodies, events and their encoding. Independent of sessions, stores and sockets."""
