"""What goes over the wire: shapes and bytes, no behaviour. Nothing here knows a session, a store or a socket."""
