"""Creating sessions, and the effect of each setting: EP-create."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from cmdc_conformance.wire.event import names
from cmdc_testkit.conversations import Conversation, calling, script
from cmdc_testkit.gateways import InProcessGateway, in_process_gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")

EVERY_TOOL = "read_file, list_dir, glob, grep, write_file, shell, ask_user"
BLUEPRINTS = {
    "careful": {
        "model": "scripted:careful",
        "systemPrompt": "Be careful.",
        "tools": ["write_file", "CMDC.Tool.Grep"],
        "plugins": ["human_approval"],
        "maxTurns": 3,
        "metadata": {"from": "blueprint"},
    },
    "no_model": {"maxTurns": 2},
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway with blueprints."""
    folder = tmp_path_factory.mktemp("gateway")
    async with in_process_gateway(folder, file={"blueprints": BLUEPRINTS}) as served, served.client() as client:
        yield client


async def create_failed(client: httpx.AsyncClient, **body: Any) -> str:
    """The message of the error that creating the session returns."""
    before = (await client.get("/v1/sessions")).json()
    answer = await client.post("/v1/sessions", json={"model": "scripted:x", **body})

    assert (answer.status_code, set(answer.json()), answer.json()["error"]) == (
        422,
        {"error", "message"},
        "create_failed",
    )
    assert (await client.get("/v1/sessions")).json() == before
    return answer.json()["message"]


async def tools_of(talk: Conversation) -> dict[str, bool]:
    """The names of a session's tools, and whether they require approval."""
    return {tool["name"]: tool["requiresApproval"] for tool in (await talk.get("/tools")).json()["tools"]}


# -- base


async def test_a_session_gets_a_random_id_of_32_hex_digits(client: httpx.AsyncClient) -> None:
    """EP-create."""
    answers = [await client.post("/v1/sessions", json={"model": "scripted:x"}) for _ in range(2)]

    assert [(answer.status_code, answer.json()["status"]) for answer in answers] == [(201, "created")] * 2
    assert all(set(answer.json()) == {"sessionId", "status"} for answer in answers)
    assert all(re.fullmatch("[0-9a-f]{32}", answer.json()["sessionId"]) for answer in answers)
    assert answers[0].json() != answers[1].json()


async def test_a_session_has_the_id_of_the_request(client: httpx.AsyncClient) -> None:
    """EP-create."""
    longest = "aZ09_-" + "x" * 122

    answer = await client.post("/v1/sessions", json={"model": "scripted:x", "sessionId": longest})

    assert (answer.status_code, answer.json()) == (201, {"sessionId": longest, "status": "created"})


async def test_an_existing_id_is_a_conflict_and_the_first_session_stays(client: httpx.AsyncClient) -> None:
    """EP-create."""
    talk = await Conversation.begin(client, sessionId="taken", metadata={"n": "1"})

    answer = await client.post(
        "/v1/sessions", json={"model": "scripted:x", "sessionId": "taken", "metadata": {"n": "2"}}
    )

    assert (answer.status_code, answer.json()) == (
        409,
        {"error": "session_exists", "message": "session 'taken' already exists"},
    )
    assert (await talk.info())["metadata"] == {"n": "1"}


async def test_a_session_needs_a_model(client: httpx.AsyncClient) -> None:
    """EP-create."""
    answers = [await client.post("/v1/sessions", json=body) for body in ({}, {"blueprint": "no_model"})]

    assert [(answer.status_code, answer.json()) for answer in answers] == [
        (
            422,
            {
                "error": "create_failed",
                "message": "model is required: set it in the request or use a blueprint that does",
            },
        )
    ] * 2


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("nobody:x", "this server has no provider 'nobody'"),
        ("openai:gpt-5", "OPENAI_API_KEY is not set on the server"),
        ("x", "a model is named provider:model"),
        (":x", "a model is named provider:model"),
        ("scripted:", "a model is named provider:model"),
    ],
)
async def test_an_unavailable_model_is_rejected_with_a_list_of_the_available_ones(
    client: httpx.AsyncClient, name: str, why: str
) -> None:
    """EP-create."""
    assert (
        await create_failed(client, model=name)
        == f"the model {name!r} is not available: {why}; available models: scripted:*"
    )


async def test_the_scripted_model_can_be_disabled(tmp_path: Path) -> None:
    """MODEL-retry."""
    async with in_process_gateway(tmp_path, scripted_model=False) as served, served.client() as client:
        message = await create_failed(client)
        models = (await client.get("/v1/capabilities")).json()["models"]

    assert message.endswith("; available models: none")
    assert models == []


async def test_the_system_prompt_is_the_first_message(client: httpx.AsyncClient) -> None:
    """EP-create, EP-messages."""
    talk = await Conversation.begin(client, systemPrompt="You are terse.")

    await talk.run("hi")

    assert await talk.messages() == [
        {"role": "system", "content": "You are terse."},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "You said: hi"},
    ]


async def test_without_settings_a_session_has_no_tools_and_no_system_prompt(client: httpx.AsyncClient) -> None:
    """EP-create, defaults."""
    talk = await Conversation.begin(client)

    assert (await talk.get("/tools")).json() == {"tools": []}
    assert await talk.messages() == []
    assert (await talk.info())["metadata"] == {}


# -- tools and plugins


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("CMDC.Tool.ReadFile", "read_file"),
        ("CMDC.Tool.ListDir", "list_dir"),
        ("CMDC.Tool.Glob", "glob"),
        ("CMDC.Tool.Grep", "grep"),
        ("CMDC.Tool.WriteFile", "write_file"),
        ("CMDC.Tool.Shell", "shell"),
        ("CMDC.Tool.AskUser", "ask_user"),
        ("Elixir.CMDC.Tool.ReadFile", "read_file"),
    ],
)
async def test_tools_can_be_named_by_the_module_names_of_the_original(
    client: httpx.AsyncClient, alias: str, name: str
) -> None:
    """EP-create: a tool that is named twice is one tool."""
    talk = await Conversation.begin(client, tools=[alias, name])

    assert list(await tools_of(talk)) == [name]


@pytest.mark.parametrize("name", ["browse", "", "Shell", "CMDC.Tool.Browse", "CMDC.Tool.read_file"])
async def test_a_disabled_tool_is_rejected_with_a_list_of_the_enabled_ones(
    client: httpx.AsyncClient, name: str
) -> None:
    """EP-create."""
    message = await create_failed(client, tools=["grep", name])

    assert message == f"unknown tool {name!r}; available: {EVERY_TOOL}"


async def test_an_operator_chooses_which_tools_are_enabled(tmp_path: Path) -> None:
    """EP-create: `shell` is a known tool, but disabled on this server."""
    file = {"tools": {"offered": ["grep", "ask_user"]}}
    async with in_process_gateway(tmp_path, file=file) as served, served.client() as client:
        message = await create_failed(client, tools=["shell"])
        offered = (await client.get("/v1/capabilities")).json()["tools"]

    assert message == "unknown tool 'shell'; available: grep, ask_user"
    assert offered == ["grep", "ask_user"]


async def test_an_operator_can_require_approval_for_a_tool(tmp_path: Path) -> None:
    """EP-create, `approval`: in addition to what the server's policy requires."""
    file = {"tools": {"offered": ["grep", "glob", "shell"], "approval": ["grep"]}}
    async with in_process_gateway(tmp_path, file=file) as served, served.client() as client:
        talk = await Conversation.begin(client, tools=["grep", "glob", "shell"], approval={"tools": ["glob"]})
        found = await tools_of(talk)

    assert found == {"grep": True, "glob": True, "shell": False}


@pytest.mark.parametrize("plugin", ["human_approval", "CMDC.Plugin.HumanApproval", "Elixir.My.HumanApproval"])
async def test_the_human_approval_plugin_requires_approval_for_shell_and_write_file(
    client: httpx.AsyncClient, plugin: str
) -> None:
    """EP-create."""
    talk = await Conversation.begin(client, tools=["shell", "write_file", "grep"], plugins=[plugin])

    assert await tools_of(talk) == {"shell": True, "write_file": True, "grep": False}


async def test_without_the_plugin_write_file_needs_no_approval(client: httpx.AsyncClient) -> None:
    """EP-create: `shell` still does, because of the server's policy."""
    talk = await Conversation.begin(client, tools=["shell", "write_file", "grep"])

    assert await tools_of(talk) == {"shell": True, "write_file": False, "grep": False}


@pytest.mark.parametrize("plugin", ["human", "", "HumanApproval2", "CMDC.Plugin.Memory"])
async def test_an_unknown_plugin_is_rejected_with_a_list_of_the_known_ones(
    client: httpx.AsyncClient, plugin: str
) -> None:
    """EP-create."""
    message = await create_failed(client, plugins=[plugin])

    assert message == f"unknown plugin {plugin!r}; available: human_approval"


# -- blueprints


async def test_a_blueprint_provides_defaults_for_the_request(client: httpx.AsyncClient) -> None:
    """EP-create."""
    answer = await client.post("/v1/sessions", json={"blueprint": "careful", "sessionId": "s"})
    talk = Conversation(client, answer.json()["sessionId"])

    info = await talk.info()
    assert (info["model"], info["metadata"]) == ("scripted:careful", {"from": "blueprint"})
    assert await tools_of(talk) == {"write_file": True, "grep": False}
    assert await talk.messages() == [{"role": "system", "content": "Be careful."}]


async def test_fields_of_the_request_take_precedence_over_the_blueprint(client: httpx.AsyncClient) -> None:
    """EP-create: field by field, also an empty list."""
    talk = await Conversation.begin(client, blueprint="careful", systemPrompt="Be bold.", plugins=[], metadata={})

    info = await talk.info()
    assert (info["model"], info["metadata"]) == ("scripted:x", {})
    assert await tools_of(talk) == {"write_file": False, "grep": False}
    assert await talk.messages() == [{"role": "system", "content": "Be bold."}]


async def test_an_unknown_blueprint_is_rejected_with_a_list_of_the_known_ones(client: httpx.AsyncClient) -> None:
    """EP-create."""
    message = await create_failed(client, blueprint="bold")

    assert message == "unknown blueprint 'bold'; available: careful, no_model"


# -- bounds


async def test_a_run_that_exceeds_max_turns_is_aborted(client: httpx.AsyncClient) -> None:
    """EP-create, maxTurns: it counts the steps of one run; the next run starts from zero."""
    talk = await Conversation.begin(client, tools=["glob"], maxTurns=2)
    look = calling(("glob", {"pattern": "*"}))

    aborted = await talk.run(script(look, look, {"text": ["never"]}))
    ended = await talk.run(script(look, {"text": ["twice"]}))

    assert (aborted[-1].name, aborted[-1].data["reason"]) == ("agent_abort", "max_turns_exceeded")
    assert names(aborted).count("tool_execution_end") == 2
    assert (ended[-1].name, ended[-1].data["lastMessage"]["content"]) == ("agent_end", "twice")
    assert (await talk.info())["turns"] == 4


async def test_a_blueprints_max_turns_is_enforced(client: httpx.AsyncClient) -> None:
    """EP-create."""
    talk = await Conversation.begin(client, blueprint="careful")
    look = calling(("grep", {"pattern": "x"}))

    run = await talk.run(script(look, look, look, look))

    assert names(run).count("tool_calls") == 3
    assert run[-1].data["reason"] == "max_turns_exceeded"


async def test_metadata_is_returned_unchanged(client: httpx.AsyncClient) -> None:
    """EP-create."""
    metadata = {str(number): "" for number in range(14)} | {"": "empty", "sessionId": '{"a": null}'}

    talk = await Conversation.begin(client, metadata=metadata)

    assert (await talk.info())["metadata"] == metadata
    assert (await client.get("/v1/sessions")).json()["sessions"][0]["metadata"] == metadata


# -- provider options


@pytest.mark.parametrize(
    "name",
    ["api_base", "api_key", "base_url", "headers", "extra_headers", "custom_llm_provider", "n", "model", "stream"],
)
async def test_an_unknown_provider_option_is_rejected_with_a_list_of_the_known_ones(
    client: httpx.AsyncClient, name: str
) -> None:
    """EP-create: never an address or a credential."""
    message = await create_failed(client, providerOpts={"temperature": 1, name: "x"})

    assert message.startswith(f"unknown provider option {name!r}")
    assert {"temperature", "top_p", "seed", "stop", "reasoning_effort", "tool_choice"} <= set(
        message.rpartition("available options: ")[2].split(", ")
    )


async def test_known_provider_options_are_accepted(client: httpx.AsyncClient) -> None:
    """EP-create."""
    options = {
        "temperature": 0.5,
        "top_p": 1,
        "seed": 7,
        "stop": ["a", "b"],
        "reasoning_effort": "low",
        "tool_choice": "auto",
    }

    talk = await Conversation.begin(client, providerOpts=options)

    assert names(await talk.run("hi"))[-1] == "agent_end"


# -- the workspace


async def test_tools_work_in_the_working_directory(served: InProcessGateway) -> None:
    """EP-create, workingDir."""
    root = served.gateway.registry.services.policy.workspace.root
    (root / "project").mkdir()
    async with served.client() as client:
        talk = await Conversation.begin(client, workingDir="project", tools=["write_file", "read_file"])
        await talk.run(script(calling(("write_file", {"path": "a.txt", "content": "one\ntwo\n"}))))
        run = await talk.run(script(calling(("read_file", {"path": "a.txt"}))))

    assert (root / "project" / "a.txt").read_text() == "one\ntwo\n"
    [end] = [seen.data for seen in run if seen.name == "tool_execution_end"]
    assert (end["status"], "two" in end["result"]) == ("ok", True)


@pytest.mark.parametrize("folder", ["..", "/etc", "missing", "project/../..", "file.txt", "way-out", "\n"])
async def test_a_working_directory_outside_the_workspace_is_rejected(served: InProcessGateway, folder: str) -> None:
    """EP-create: also through links and `..`."""
    root = served.gateway.registry.services.policy.workspace.root
    (root / "project").mkdir()
    (root / "file.txt").touch()
    (root / "way-out").symlink_to("/")
    async with served.client() as client:
        await create_failed(client, workingDir=folder)
        await create_failed(client, skillsDirs=[folder])


async def test_skills_are_listed_in_the_system_prompt_and_opened_with_read_file(served: InProcessGateway) -> None:
    """EP-create, skillsDirs: names and descriptions enter the system prompt."""
    root = served.gateway.registry.services.policy.workspace.root
    skill = root / "skills" / "greet"
    skill.mkdir(parents=True)
    (skill / "SKILL.md").write_text("---\nname: greeting\ndescription: How to greet.\n---\nSay ahoy.\n")
    async with served.client() as client:
        talk = await Conversation.begin(
            client, systemPrompt="You are polite.", skillsDirs=["skills"], tools=["read_file"], sessionId="s"
        )
        run = await talk.run(script(calling(("read_file", {"path": "skills/greet/SKILL.md"}))))
        [told, *_] = await talk.messages()

    assert told == {
        "role": "system",
        "content": "You are polite.\n\n"
        "You have these skills. If one fits the task, first read its file with read_file, then follow it:\n"
        "- greeting: How to greet. (skills/greet/SKILL.md)",
    }
    [end] = [seen.data for seen in run if seen.name == "tool_execution_end"]
    assert "Say ahoy." in end["result"]


async def test_session_settings_survive_a_restart(tmp_path: Path) -> None:
    """EP-create: they are part of the session, not of the server's configuration."""
    address = f"sqlite:///{tmp_path / 'store.db'}"
    body = {"blueprint": "careful", "sessionId": "s", "maxTurns": 1}
    async with (
        in_process_gateway(tmp_path, store=address, file={"blueprints": BLUEPRINTS}) as served,
        served.client() as client,
    ):
        await client.post("/v1/sessions", json=body)

    async with in_process_gateway(tmp_path, store=address) as served, served.client() as client:
        talk = Conversation(client, "s")
        tools, info = await tools_of(talk), await talk.info()
        run = await talk.run(script(calling(("grep", {"pattern": "x"}))))

    assert tools == {"write_file": True, "grep": False}
    assert (info["model"], info["metadata"]) == ("scripted:careful", {"from": "blueprint"})
    assert run[-1].data["reason"] == "max_turns_exceeded"
