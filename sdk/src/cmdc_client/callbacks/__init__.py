"""Tools of an agent that are Python functions of one's own program.

    tools = Tools()

    @tools.tool
    def get_weather(city: str) -> str:
        '''The weather in a city.'''
        return f"It is sunny in {city}."

    with CallbackServer(tools) as server, client.sessions.create(model="scripted:demo") as session:
        server.register(session)
        reply = session.ask("What is the weather in Oslo?")

`callback_app` serves them from a web application one has already, and `verify_callback` is for those who answer calls
by themselves.
"""

from cmdc_client.callbacks.annotations import InvalidTool
from cmdc_client.callbacks.asgi import callback_app
from cmdc_client.callbacks.server import CallbackServer
from cmdc_client.callbacks.tools import Tool, ToolError, Tools
from cmdc_client.signatures import (
    CallbackCall,
    CallbackRejected,
    MalformedCall,
    NotSigned,
    StaleTimestamp,
    WrongSignature,
    new_secret,
    sign,
    verify_callback,
)

__all__ = [
    "CallbackCall",
    "CallbackRejected",
    "CallbackServer",
    "InvalidTool",
    "MalformedCall",
    "NotSigned",
    "StaleTimestamp",
    "Tool",
    "ToolError",
    "Tools",
    "WrongSignature",
    "callback_app",
    "new_secret",
    "sign",
    "verify_callback",
]
