"""A second gateway: the base profile and nothing more, from the standard library alone.

It was written from the protocol, not from the gateway of this project, and shares no line with it. What it is good for
is one thing: a suite that passes it judges the protocol, not the one server it grew up with. Everything is kept in
memory, the only model is the scripted one, and none of the extended rules is there: no cursors, no ids, no requestId.
"""
