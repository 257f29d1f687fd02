"""Lend the agent a Python function of this program as a tool."""

from typing import Annotated, Literal

from cmdc_client import Client
from cmdc_client.callbacks import CallbackServer, ToolError, Tools
from scripted import MODEL, call, scripted

tools = Tools()


# Name, description and JSON Schema of the tool are made from the function's signature and docstring.
@tools.tool
def get_weather(city: Annotated[str, "Its name, in English."], unit: Literal["C", "F"] = "C") -> str:
    """The weather in a city."""
    if city != "Oslo":
        raise ToolError(f"There is no weather station in {city}.")  # this sentence is what the model gets
    return f"{18 if unit == 'C' else 64} °{unit}, light rain"


PROMPT = scripted(
    "How is the weather in Oslo and Atlantis?",
    {"toolCalls": [call("get_weather", city="Oslo"), call("get_weather", city="Atlantis")]},
    {"text": ["18 °C and light rain in Oslo; nobody knows about Atlantis."]},
)

# The gateway calls this program over HTTP. Each call is signed, and what does not come from the gateway is refused. On
# loopback it calls only if its operator allows that (GATEWAY_CALLBACK_ALLOW=127.0.0.0/8); for a gateway elsewhere, give
# the server a `host` and a `public_url`. `callback_app(tools, …)` is the same for a web application you have already.
with Client() as client, client.sessions.create(model=MODEL) as session, CallbackServer(tools) as server:
    server.register(session)
    [tool] = [entry for entry in session.tools.list() if entry.kind == "callback"]
    print(f"{tool.name}: {tool.description} {tool.parameters.to_dict()}")

    reply = session.ask(PROMPT)
    for done in reply.tool_calls:
        print(f"  {done.name} {done.args} → {done.status}: {done.result}")
    print(reply.text)

    assert [done.status for done in reply.tool_calls] == ["ok", "error"]
    assert reply.tool_calls[0].result == "18 °C, light rain"
