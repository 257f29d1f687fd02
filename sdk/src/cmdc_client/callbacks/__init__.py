"""Serves Python functions to agents as tools. Needs the extra `cmdc-client[callbacks]`.

    tools = Tools()

    @tools.tool
    def get_weather(city: str) -> str:
        '''Get the weather in a city.'''
        return f"It is sunny in {city}."

    with CallbackServer(tools) as server, client.sessions.create(model="scripted:demo") as session:
        server.register(session)
        reply = session.ask("What is the weather in Oslo?")

`callback_app` serves the tools from an existing web application instead. `verify_callback` verifies a call for programs
that handle calls in another way; it is also in `cmdc_client`, and does not need the extra.
"""

try:
    from cmdc_client.callbacks.arguments import InvalidTool
    from cmdc_client.callbacks.asgi import callback_app
    from cmdc_client.callbacks.server import CallbackServer
    from cmdc_client.callbacks.tools import Tool, ToolError, Tools
except ModuleNotFoundError as error:
    if error.name is None or error.name.partition(".")[0] not in {
        "h11",
        "pydantic",
        "pydantic_core",
        "typing_extensions",
    }:
        raise
    raise ImportError(
        f"cmdc_client.callbacks needs {error.name}, which is not installed; install the extra with:"
        " python3 -m pip install 'cmdc-client[callbacks]'"
    ) from error
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
