"""Make a session, ask something, read the answer."""

from cmdc_client import Client

# Where the gateway is, and the key: CMDC_BASE_URL and CMDC_API_KEY, or Client("http://…", api_key="…").
client = Client()

# A session is an agent: a model, its tools, and all that was said. It lives on the server until it is deleted; as a
# context manager it is deleted at the end of the block.
with client, client.sessions.create(model="scripted:demo", system_prompt="You are a parrot.") as session:
    print(f"session {session.id}")

    # Send a prompt and wait for the answer. This model says back what it hears.
    for text in ("Hello!", "And good bye!"):
        reply = session.ask(text)
        print(f"> {text}\n{reply.text}  ({reply.usage.total_tokens} tokens, ${reply.cost_usd:.2f})")
        assert reply.text == f"You said: {text}"

    # The server remembers the conversation, and what it cost.
    roles = [message.role for message in session.messages()]
    stats = session.stats()
    print(f"{', '.join(roles)}: {stats.total_tokens} tokens in {stats.prompt_count} prompts")
    assert roles == ["system", "user", "assistant", "user", "assistant"]
    assert stats.prompt_count == 2
