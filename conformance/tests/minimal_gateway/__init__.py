"""A second gateway, which implements only the base profile with only the standard library.

It was written from the protocol and shares no code with the gateway of this project. That it passes shows that the suite
tests the protocol and not one implementation. It keeps everything in memory, has only the scripted model, and implements
no extended feature: no cursors, no event ids, no requestId.
"""
