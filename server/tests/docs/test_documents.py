"""The documents agree with the code: their examples are run, and their tables are compared with the server.

An example is a fenced `sh` block that contains `curl`. The `json` or `text` block directly after it is the expected
output. Values that differ between runs (times, random values) are not compared; IDs in later commands are replaced by
those that the gateway under test returned.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from cmdc_gateway.app import create_app
from cmdc_gateway.protocol.events import EVENT_TYPES
from cmdc_gateway.providers.options import OPTIONS
from cmdc_gateway.providers.vendors import VENDORS
from cmdc_gateway.settings import ConfigFile, Settings
from cmdc_gateway.tools.builtin import NAMES, READ_ONLY
from cmdc_gateway.tools.callbacks.secret import new_secret
from cmdc_gateway.tools.plugin import find_tool
from cmdc_gateway.web.errors import STATUS
from cmdc_gateway.web.schema.asyncapi import asyncapi
from cmdc_gateway.web.schema.openapi import openapi
from cmdc_gateway.web.state import Gateway
from cmdc_gateway.web.streaming import websocket
from cmdc_testkit.gateways import GatewayProcess
from pydantic.alias_generators import to_camel
from standardwebhooks import Webhook

ROOT = Path(__file__).resolve().parents[3]
ADDRESS = "http://127.0.0.1:4000"
EVERY_TOOL = f"[tools]\noffered = {json.dumps(NAMES)}\n"

GUIDES = (
    *("docs/approvals.md", "docs/configuration.md", "docs/events.md", "docs/operations.md"),
    *("docs/scripted-model.md", "docs/strict-json.md", "docs/tools.md", "docs/websocket.md"),
)
RUN = {"README.md": "", "API.md": EVERY_TOOL, **dict.fromkeys(GUIDES, "")}
"""Documents with examples, each with the configuration file of its gateway."""
LONGEST_GUIDE = 300

# Times, random values, and settings of the gateway under test: only the type is compared.
VOLATILE = {
    *("at", "createdAt", "expiresAt", "requestedAt", "timestamp", "uptimeMs"),
    *("digest", "secret", "ticket", "rpm"),
}
CURSOR = re.compile(r"([0-9a-z]{1,32})\.[0-9]+")

# Errors that API.md documents once for all endpoints.
COMMON = {
    *("bad_request", "internal", "rate_limited", "unauthorized"),
    *("headers_too_large", "payload_too_large", "request_timeout", "unsupported_media_type", "uri_too_long"),
    *("idempotency_in_progress", "idempotency_mismatch"),
}
DOCUMENTS = ("/openapi.json", "/asyncapi.json", "/events.schema.json", "/docs")


# -- reading Markdown --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fence:
    """A fenced block. `after` is the text between the previous block and this one."""

    info: str
    content: str
    after: str


@dataclass(frozen=True, slots=True)
class Example:
    """Commands with their expected output. `kind` is `json`, `text` (a stream), or empty if no output is shown."""

    script: str
    kind: str
    shown: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table and the heading above it."""

    heading: str
    columns: list[str]
    rows: list[list[str]]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def reference() -> str:
    """API.md and its guides."""
    return "\n\n".join(read(name) for name in ("API.md", *GUIDES))


def fences(markdown: str) -> Iterator[Fence]:
    at = 0
    for found in re.finditer(r"^(?P<ticks>`{3,})(\w*)\n(.*?)^(?P=ticks)$", markdown, re.DOTALL | re.MULTILINE):
        yield Fence(found[2], found[3], markdown[at : found.start()])
        at = found.end()


def examples(markdown: str) -> list[Example]:
    """The examples in order, each with the variables that were set before it."""
    found: list[Example] = []
    variables, script = "", ""
    for fence in [*fences(markdown), Fence("", "", "")]:
        if script:
            answers = fence.info in ("json", "text") and not fence.after.strip()
            found.append(Example(variables + script, fence.info if answers else "", fence.content))
            script = ""
        if fence.info == "sh" and "curl" in fence.content:
            script = fence.content
        elif fence.info == "sh":
            variables += fence.content
    return found


def prose(markdown: str) -> str:
    """The document without its fenced blocks."""
    return re.sub(r"^(`{3,}).*?^\1$", "", markdown, flags=re.DOTALL | re.MULTILINE)


def tables(markdown: str) -> list[Table]:
    found: list[Table] = []
    heading, open_table = "", False
    for line in prose(markdown).splitlines():
        if line.startswith("#"):
            heading = line.lstrip("#").strip()
        if not line.startswith("|"):
            open_table = False
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not open_table:
            found.append(Table(heading, cells, []))
            open_table = True
        elif not all(re.fullmatch(r":?-+:?", cell) for cell in cells):
            found[-1].rows.append(cells)
    return found


def table(markdown: str, *columns: str) -> Table:
    """The only table that starts with these columns."""
    [found] = [table for table in tables(markdown) if table.columns[: len(columns)] == list(columns)]
    return found


def code(text: str) -> list[str]:
    """The contents of all code spans."""
    return re.findall(r"`([^`]+)`", text)


def sections(markdown: str) -> dict[tuple[str, str], str]:
    """The text below each heading of the form `METHOD /path`."""
    parts = re.split(r"^#{2,3} ", markdown, flags=re.MULTILINE)
    found: dict[tuple[str, str], str] = {}
    for part in parts:
        heading, _, text = part.partition("\n")
        if match := re.fullmatch(r"(GET|POST|DELETE) (/\S*)", heading):
            found[match[1], match[2]] = text
    return found


# -- the examples ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Names:
    """Maps the IDs in a document to those of the gateway under test."""

    real: dict[str, str] = field(default_factory=dict[str, str])

    def learn(self, shown: Any, real: Any, key: str = "") -> None:
        if isinstance(shown, dict) and isinstance(real, dict):
            for name in cast("dict[str, Any]", shown).keys() & cast("dict[str, Any]", real).keys():
                self.learn(shown[name], real[name], name)
        elif isinstance(shown, list) and isinstance(real, list):
            for pair in zip(cast("list[Any]", shown), cast("list[Any]", real), strict=False):
                self.learn(*pair)
        elif isinstance(shown, str) and isinstance(real, str):
            ours, theirs = CURSOR.fullmatch(shown), CURSOR.fullmatch(real)
            if key == "requestId":
                self.real[shown] = real
            elif ours and theirs:
                self.real[ours[1]] = theirs[1]

    def put_into(self, text: str) -> str:
        for shown, real in self.real.items():
            text = re.sub(rf"(?<![0-9a-z]){shown}(?![0-9a-z])", real, text)
        return text


def answer(kind: str, text: str) -> Any:
    """Parse output: JSON as it is, a stream as the list of its events."""
    if kind == "json":
        return json.loads(text)
    frames: list[dict[str, Any]] = []
    for block in text.split("\n\n"):
        lines = [line.partition(": ") for line in block.strip().splitlines() if not line.startswith(":")]
        if lines:
            frame: dict[str, Any] = {name: value for name, _, value in lines}
            frames.append(frame | {"data": json.loads(frame["data"])})
    return frames


def without_volatile(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: type(held).__name__ if name in VOLATILE else without_volatile(held)
            for name, held in cast("dict[str, Any]", value).items()
        }
    return [without_volatile(item) for item in cast("list[Any]", value)] if isinstance(value, list) else value


async def run(script: str) -> str:
    environ = {"PATH": os.environ["PATH"], "NO_PROXY": "*"}
    process = await asyncio.create_subprocess_exec(
        "sh", "-euc", script, env=environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(20):
        out, failed = await process.communicate()
    assert process.returncode == 0, f"{script}\n{failed.decode()}"
    return out.decode()


async def answered(example: Example, url: str, names: Names) -> tuple[Any, Any]:
    """Return the expected and the actual output, with the same IDs. Requests that only read are repeated until equal."""
    reads = not re.search(r" -(d|X)\b", example.script)
    async with asyncio.timeout(20):
        while True:
            text = await run(names.put_into(example.script).replace(ADDRESS, url))
            if not example.kind:
                return None, None
            real, shown = answer(example.kind, text), answer(example.kind, example.shown)
            names.learn(shown, real)
            expected = without_volatile(answer(example.kind, names.put_into(example.shown)))
            got = without_volatile(real)
            # A request that failed had no effect and may succeed once the run has progressed.
            if expected == got or not (reads or "error" in got):
                return expected, got
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("document", [name for name in RUN if examples(read(name))])
async def test_every_example_returns_what_the_document_shows(document: str, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("the examples need curl, which is not installed")
    found, names = examples(read(document)), Names()

    async with GatewayProcess(tmp_path, config=RUN[document], GATEWAY_API_KEYS="sk-abc123") as gateway:
        for example in found:
            try:
                expected, got = await answered(example, gateway.url, names)
            except TimeoutError:
                pytest.fail(f"{document}: never returned what it shows:\n{example.script}")
            assert got == expected, f"{document}:\n{example.script}"


def test_the_reference_and_the_guides_have_examples() -> None:
    """A change of the Markdown that hides all examples of a page would otherwise go unnoticed."""
    with_examples = {name for name in RUN if examples(read(name))}

    assert {"README.md", "API.md", "docs/approvals.md", "docs/events.md", "docs/scripted-model.md"} <= with_examples


async def test_every_command_of_the_readme_that_starts_a_gateway_starts_one(tmp_path: Path) -> None:
    blocks = [*fences(read("README.md"))]
    [config] = [fence.content for fence in blocks if fence.info == "toml"]
    (tmp_path / "gateway.toml").write_text(config, encoding="utf-8")
    lines = [line for fence in blocks if fence.info == "bash" for line in fence.content.splitlines()]
    commands = [line for line in lines if "cmdc-gateway serve" in line]
    environ = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "GATEWAY_PORT": "0"}

    assert commands
    for command in commands:
        process = await asyncio.create_subprocess_exec(
            *("sh", "-euc", f"exec env {command}"), env=environ, cwd=tmp_path, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        try:
            async with asyncio.timeout(30):
                line = (await process.stdout.readline()).decode()
            assert line.startswith("CMDC Gateway listening on http://127.0.0.1:"), command
        finally:
            process.terminate()
            await process.communicate()
        assert process.returncode == 0, command


def test_the_example_that_verifies_a_signature_accepts_only_genuine_calls() -> None:
    """CB-4."""
    [example] = [fence.content for fence in fences(reference()) if fence.info == "python"]
    module: dict[str, Any] = {}
    exec(compile(example, "docs/tools.md", "exec"), module)
    is_genuine = module["is_genuine"]
    secret, body, now = new_secret(os.urandom), b'{"args":{"city":"Troms\xc3\xb8"}}', datetime.now(UTC)
    headers = {
        "webhook-id": "call_1",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(secret).sign("call_1", now, body.decode()),
    }

    assert is_genuine(secret, headers, body)
    assert not is_genuine(secret, headers, body + b" ")
    assert not is_genuine(new_secret(os.urandom), headers, body)
    assert not is_genuine(secret, headers | {"webhook-id": "call_2"}, body)
    assert not is_genuine(secret, headers | {"webhook-timestamp": str(int(now.timestamp()) - 3600)}, body)


# -- the endpoints -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Route:
    """An endpoint as described in the OpenAPI document."""

    body: set[str]
    parameters: set[str]
    answer: set[str]
    errors: set[str]


def published(tmp_path: Path) -> dict[tuple[str, str], Route]:
    """Every endpoint except the published documents."""
    given: dict[str, Any] = {"store": "memory:", "workspace": tmp_path}
    app = create_app(Settings(**given), environ={})
    document = openapi(app)

    def properties(content: Any) -> set[str]:
        reference = content.get("application/json", {}).get("schema", {}).get("$ref", "")
        schema = document["components"]["schemas"].get(reference.rpartition("/")[2], {})
        return set(schema.get("properties", ()))

    routes: dict[tuple[str, str], Route] = {}
    for path in document["paths"].keys() - DOCUMENTS:
        operations = document["paths"][path]
        for method, described in operations.items():
            answers = described["responses"]
            good = next((answers[status] for status in sorted(answers) if "200" <= status < "300"), dict[str, Any]())
            refused = [answers[status] for status in answers if status >= "400"]
            routes[method.upper(), re.sub(r"{session_?[iI]d}", "{id}", path)] = Route(
                body=properties(described.get("requestBody", {}).get("content", {})),
                parameters={item["name"] for item in described.get("parameters", ()) if item["in"] == "query"},
                answer=properties(good.get("content", {})),
                errors={name for answer in refused for name in code(answer["description"]) if name in STATUS},
            )
    return routes


def test_api_md_documents_exactly_the_endpoints_of_the_server(tmp_path: Path) -> None:
    api = read("API.md")

    assert sections(api).keys() == published(tmp_path).keys()
    for path in DOCUMENTS:
        assert f"`{path}`" in api


def test_every_endpoint_is_documented_with_its_fields_and_parameters(tmp_path: Path) -> None:
    described = sections(read("API.md"))

    for place, route in published(tmp_path).items():
        documented = {
            table.columns[0]: {code(row[0])[0] for row in table.rows}
            for table in tables(described[place])
            if table.columns[0] in ("Request field", "Query parameter", "Response field")
        }
        assert documented.get("Request field", set()) == route.body, place
        assert documented.get("Query parameter", set()) == route.parameters, place
        assert documented.get("Response field", set()) == route.answer, place


def test_every_endpoint_is_documented_with_its_own_errors(tmp_path: Path) -> None:
    described = sections(read("API.md"))

    for place, route in published(tmp_path).items():
        common = {*COMMON, *(("unavailable",) if place[1].startswith("/v1/") else ())}
        found = re.search(r"\bErrors(?: before the upgrade)?: (.*?)\.\s", described[place], re.DOTALL)
        documented = {name for name in code(found[1]) if name in STATUS} if found else set[str]()
        assert documented == route.errors - common, place


def test_every_error_code_is_documented_with_its_status_and_members() -> None:
    """HTTP-2."""
    rows = table(read("API.md"), "Code", "Status").rows

    assert {code(row[0])[0]: int(row[1]) for row in rows} == STATUS
    members = {code(row[0])[0]: code(row[3]) for row in rows}
    assert members["bad_request"][0] == "details"
    assert members["already_resolved"] == ["status"]
    assert members["rate_limited"] == ["retryAfter", "Retry-After"]
    assert members["cursor_expired"] == ["earliest", "latest"]


def test_every_event_is_documented_with_its_fields() -> None:
    """EVT-5."""
    rows = table(read("API.md"), "Event", "Fields of `data`").rows

    assert [(code(row[0])[0], code(row[1])) for row in rows] == [
        (kind.name, [to_camel(member.name) for member in fields(kind)]) for kind in EVENT_TYPES
    ]


def test_every_action_and_close_code_of_the_websocket_is_documented() -> None:
    """WS-3, WS-6."""
    pages = reference()
    schemas = asyncapi("0")["components"]["schemas"]
    actions = {
        name.removesuffix("Action").lower(): set(schema["properties"]) - {"action", "actionId", "idempotencyKey"}
        for name, schema in schemas.items()
        if name.endswith("Action")
    }

    assert {code(row[0])[0]: set(code(row[1])) for row in table(pages, "Action", "Members").rows} == actions
    documented = {int(row[0]) for row in table(pages, "Close code").rows}
    ours = {
        websocket.SERVER_FAULT,
        websocket.RESTARTING,
        websocket.KEY_REVOKED,
        websocket.SESSION_GONE,
        websocket.READER_TOO_SLOW,
    }
    assert ours < documented


def arguments_of(tool: str) -> set[str]:
    plugin = find_tool(tool)
    assert plugin is not None
    return set(cast("dict[str, Any]", plugin.spec.parameters["properties"]))


def test_features_tools_options_and_providers_are_documented(tmp_path: Path) -> None:
    pages = reference()
    given: dict[str, Any] = {"store": "memory:", "workspace": tmp_path}
    gateway: Gateway = create_app(Settings(**given), environ={}).state.gateway

    assert [code(row[0])[0] for row in table(pages, "In `extended`").rows] == gateway.capabilities.extended
    rows = table(pages, "Tool", "Arguments").rows
    tools = {code(row[0])[0]: (set(re.findall(r"`(\w+)\??`", row[1])), row[3]) for row in rows}
    by_default = {*READ_ONLY, "ask_user"}
    assert tools == {name: (arguments_of(name), "yes" if name in by_default else "no") for name in NAMES}
    assert set(OPTIONS) <= set(code(prose(sections(pages)["POST", "/v1/sessions"])))
    providers = {code(row[0])[0]: set(code(row[1])) for row in table(pages, "Provider").rows}
    assert providers == {
        name: {*vendor.key_variables, *filter(None, [vendor.base_variable])} for name, vendor in VENDORS.items()
    }


# -- the settings ------------------------------------------------------------------------------------------------------


def default_of(setting: str) -> str:
    value = Settings.model_fields[setting].default
    if isinstance(value, list):
        value = ",".join(map(str, cast("list[object]", value)))
    return str(value).lower() if isinstance(value, bool) else "" if value is None else str(value)


def test_every_setting_is_documented_with_its_default() -> None:
    documented = {code(row[0])[0]: row[1] for row in table(read("API.md"), "Variable", "Default").rows}
    in_short = {code(row[0])[0]: row[1] for row in table(read("README.md"), "Variable", "Default").rows}

    defaults = {f"GATEWAY_{name.upper()}": default_of(name) for name in Settings.model_fields}
    assert {name: "".join(code(cell)) for name, cell in documented.items()} == defaults
    assert in_short.items() <= documented.items()


def test_every_setting_that_a_guide_names_exists() -> None:
    named = {name for page in GUIDES for name in re.findall(r"GATEWAY_[A-Z_]*[A-Z]", read(page))}

    assert named <= {f"GATEWAY_{name.upper()}" for name in Settings.model_fields}


def test_every_section_and_key_of_the_configuration_file_is_documented() -> None:
    rows = table(reference(), "Section", "Key").rows
    sections_documented = {found[1] for row in rows for found in re.finditer(r"`\[(\w+)", row[0])}
    keys_documented = {name for row in rows for name in code(row[1])}

    assert sections_documented == set(ConfigFile.model_fields)
    for name in ("models", "rate_limit", "tools", "budgets"):
        section: Any = ConfigFile.model_fields[name].annotation
        model = section.__args__[1] if hasattr(section, "__args__") else section
        assert set(model.model_fields) <= keys_documented, name


def test_every_example_of_a_configuration_file_is_valid() -> None:
    import tomllib

    files = [fence.content for fence in fences(reference()) if fence.info == "toml"]
    read_back = [
        Settings(**dict[str, Any]()).with_file(ConfigFile.model_validate(tomllib.loads(file))) for file in files
    ]

    [whole] = [settings for settings in read_back if settings.blueprints()]
    assert whole.blueprints().keys() == {"reviewer"}
    assert whole.targets({"LOCAL_KEY": "k"}).keys() == {"local:qwen"}


# -- all documents -----------------------------------------------------------------------------------------------------


def documents() -> list[Path]:
    folders = [ROOT, *(ROOT / name for name in ("docs", "server", "sdk", "conformance", "examples", "openapi"))]
    found = {path for folder in folders[1:] for path in folder.rglob("*.md")} | set(ROOT.glob("*.md"))
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(ROOT).parts))


def anchors(markdown: str) -> set[str]:
    """The anchors of all headings, as GitHub derives them."""
    headings = re.findall(r"^#+ (.+)$", prose(markdown), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_resolves(path: Path) -> None:
    text = prose(path.read_text(encoding="utf-8"))

    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", target):
            continue
        name, _, anchor = target.partition("#")
        place = (path.parent / name) if name else path
        assert place.exists(), target
        if anchor:
            assert anchor in anchors(place.read_text(encoding="utf-8")), target


@pytest.mark.parametrize("name", GUIDES)
def test_a_guide_is_short_and_linked_with_the_reference_both_ways(name: str) -> None:
    assert len(read(name).splitlines()) <= LONGEST_GUIDE
    assert f"]({name}" in read("API.md")
    assert "](../API.md#" in read(name)


def test_every_threat_is_tested_in_files_that_exist() -> None:
    """Every threat in SECURITY.md names the tests of its defense."""
    rows = table(read("SECURITY.md"), "Threat", "Defense").rows

    assert rows
    for threat, _, tested in rows:
        assert code(tested), threat
        for name in code(tested):
            assert (ROOT / "server" / "tests" / name).is_file(), name


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "SECURITY.md"])
def test_every_nox_session_that_a_document_names_exists(name: str) -> None:
    sessions = set(re.findall(r"^@nox\.session\ndef (\w+)", read("noxfile.py"), re.MULTILINE))

    assert set(re.findall(r"nox (?:-s|--session) (\w+)", read(name))) <= sessions


def test_every_file_that_the_architecture_names_exists() -> None:
    architecture = prose(read("ARCHITECTURE.md"))
    places = (
        ROOT,
        *(
            ROOT / place
            for place in (
                "server/src/cmdc_gateway",
                "server/tests",
                "sdk/src/cmdc_client",
                "conformance/src/cmdc_conformance",
                "conformance/tests",
            )
        ),
    )
    named = [name for name in code(architecture) if re.fullmatch(r"[\w./-]+(\.py|\.md|/)", name)]

    assert named
    assert [name for name in named if not any((place / name).exists() for place in places)] == []
