"""Offer a Python function of this program to the agent as a tool."""

from typing import Annotated, Literal

from cmdc_client import Client
from cmdc_client.callbacks import CallbackServer, ToolError, Tools
from scripted import MODEL, call, scripted

tools = Tools()


# The tool's name, description and JSON Schema are derived from the function's signature and docstring.
@tools.tool
def get_weather(city: Annotated[str, "English name of the city."], unit: Literal["C", "F"] = "C") -> str:
    """Get the current weather in a city."""
    if city != "Oslo":
        raise ToolError(f"There is no weather station in {city}.")  # the model sees this sentence
    return f"{18 if unit == 'C' else 64} °{unit}, light rain"


PROMPT = scripted(
    "What is the weather in Oslo and in Atlantis?",
    {"toolCalls": [call("get_weather", city="Oslo"), call("get_weather", city="Atlantis")]},
    {"text": ["18 °C and light rain in Oslo; no data for Atlantis."]},
)

# The gateway calls this program over HTTP. Each call is signed, and `CallbackServer` rejects unsigned requests. The
# gateway calls loopback addresses only if its operator allows them (GATEWAY_CALLBACK_ALLOW=127.0.0.0/8); for a gateway on
# another machine, pass `host` and `public_url`. To serve tools from an existing web application, use `callback_app`.
with Client() as client, client.sessions.create(model=MODEL) as session, CallbackServer(tools) as server:
    server.register(session)
    [tool] = [entry for entry in session.tools.list() if entry.kind == "callback"]
    print(f"{tool.name}: {tool.description} {tool.parameters.to_dict()}")

    reply = session.ask(PROMPT)
    for executed in reply.tool_calls:
        print(f"  {executed.name} {executed.args} → {executed.status}: {executed.result}")
    print(reply.text)

    assert [executed.status for executed in reply.tool_calls] == ["ok", "error"]
    assert reply.tool_calls[0].result == "18 °C, light rain"
