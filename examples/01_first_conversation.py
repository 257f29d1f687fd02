"""Create a session, send a prompt and read the reply."""

from cmdc_client import Client

# The URL and the API key come from CMDC_BASE_URL and CMDC_API_KEY, or from Client("http://…", api_key="…").
client = Client()

# A session is an agent: a model, its tools and its history. It stays on the server until it is deleted; used as a
# context manager, it is deleted at the end of the block.
with client, client.sessions.create(model="scripted:demo", system_prompt="You are a parrot.") as session:
    print(f"session {session.id}")

    # Send a prompt and wait for the reply. This model echoes the prompt.
    for text in ("Hello!", "And goodbye!"):
        reply = session.ask(text)
        print(f"> {text}\n{reply.text}  ({reply.usage.total_tokens} tokens, ${reply.cost_usd:.2f})")
        assert reply.text == f"You said: {text}"

    # The server keeps the history and the usage of the session.
    roles = [message.role for message in session.messages()]
    stats = session.stats()
    print(f"{', '.join(roles)}: {stats.total_tokens} tokens in {stats.prompt_count} prompts")
    assert roles == ["system", "user", "assistant", "user", "assistant"]
    assert stats.prompt_count == 2
