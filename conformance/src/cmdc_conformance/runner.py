"""Runs the checks of a profile against a server, and makes a report of what they say."""

from __future__ import annotations

import asyncio
import importlib.util
import traceback
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from secrets import token_hex
from time import monotonic
from typing import Any, Final, Literal, cast

from cmdc_conformance.callbacks import Callbacks
from cmdc_conformance.case import Case, Server, Suite
from cmdc_conformance.check import SSE, Check, checks
from cmdc_conformance.drivers.model import ScriptedModel
from cmdc_conformance.evidence import Evidence, Redactor
from cmdc_conformance.findings import Blocked, Face, Failed, NotApplicable, NotExercised, Outcome
from cmdc_conformance.first_look import UNDECLARED, declared_by, driver_of, probe
from cmdc_conformance.monitors import MONITORED, Monitors, Violation
from cmdc_conformance.player import replay
from cmdc_conformance.reader import Watch
from cmdc_conformance.report import Report
from cmdc_conformance.requirements import PROFILES, Profile, Requirement, requirements
from cmdc_conformance.serving import HttpServer
from cmdc_conformance.target import Target, TargetError
from cmdc_conformance.verdict import Result, verdict_on, with_baseline
from cmdc_conformance.wire import Http, Patience, http_client

Via = Literal["raw", "sdk", "both"]
Through = Literal["sse", "ws", "both"]
Progress = Callable[[int, int, Outcome], None]
Notice = Callable[[str], None]

# One check may take so many deadlines.
_LONGEST: Final = 12
_WARM_UP: Final = 6
_PARALLEL: Final = 8
_FEW: Final = 3000


@dataclass(frozen=True, slots=True)
class Options:
    """What is judged, and how. `only` are requirements, or rules, that are judged alone.

    `profile` is one of the profiles, or several, divided by commas. `replay` are steps that were kept, to be played
    again in place of all checks; `probe` is whether it is first looked whether there is a gateway at all.
    """

    profile: str = "core"
    via: Via | None = None
    transport: Through = "both"
    only: tuple[str, ...] = ()
    seed: int = 0
    examples: int = 10
    baseline: dict[str, str] = field(default_factory=dict[str, str])
    replay: Mapping[str, Any] | None = None
    probe: bool = True

    @property
    def profiles(self) -> tuple[Profile, ...]:
        """The profiles. Raises TargetError for one that there is not."""
        names = self.profile.split(",")
        for name in names:
            if name not in PROFILES:
                raise TargetError(f"there is no profile {name!r}: there are {', '.join(PROFILES)}")
        return cast("tuple[Profile, ...]", tuple(names))


def run(
    target: Target,
    options: Options | None = None,
    progress: Progress | None = None,
    notice: Notice | None = None,
) -> Report:
    """Judge a server. Raises TargetError if it cannot be judged at all."""
    return asyncio.run(judge(target, options, progress, notice))


async def judge(
    target: Target,
    options: Options | None = None,
    progress: Progress | None = None,
    notice: Notice | None = None,
) -> Report:
    """As `run`, inside an event loop."""
    return await _Run(target.checked(), options or Options(), progress or _silent, notice or _unheard).report()


def _silent(done: int, total: int, outcome: Outcome) -> None:
    pass


def _unheard(sentence: str) -> None:
    pass


def client_is_installed() -> bool:
    """Whether scenarios can be driven through the Python client."""
    return importlib.util.find_spec("cmdc_client") is not None


class _Run:
    def __init__(self, target: Target, options: Options, progress: Progress, notice: Notice) -> None:
        self._target = target
        self._options = options
        self._progress = progress
        self._notice = notice
        self._redactor = Redactor(target.keys.secrets)
        self._patience = Patience(notice)
        self._client = http_client()
        self._violations: list[Violation] = []
        self._outcomes: list[Outcome] = []
        self._via = _via(options.via)

    async def report(self) -> Report:
        """Judge all there is to judge."""
        begun = monotonic()
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._client.aclose)
            server = await self._server()
            suite = await stack.enter_async_context(self._suite(server))
            wanted = [each for each in self._in_profile() if each.hidden_from(server.driver) is None]
            jobs = [(each, face) for each in self._chosen(wanted, server) for face in self._faces(each)]
            if _is_slow(server):
                self._notice(
                    f"the server lets {_rpm(server)} requests a minute through with a key, and {_checks(len(jobs))}"
                    " to wait for them; with the rate limit lifted this takes minutes instead of hours"
                )
            await self._warm_up(suite)
            await self._refusals(server, suite, wanted)
            await self._run_all(suite, jobs)
            results = with_baseline([self._result(each, suite) for each in wanted], self._options.baseline)
        return Report(
            target=self._target,
            server=server,
            profile=self._options.profile,
            via=self._via,
            transport=self._options.transport,
            only=self._options.only,
            seed=self._options.seed,
            results=results,
            hidden={each.id: why for each in self._in_profile() if (why := each.hidden_from(server.driver))},
            coverage={event: dict(faces) for event, faces in suite.monitors.coverage.items()},
            waited=self._patience.waited,
            seconds=monotonic() - begun,
        )

    # -- what is judged ------------------------------------------------------------------------------------------------

    def _in_profile(self) -> list[Requirement]:
        only = self._options.only
        return [
            each
            for each in requirements().values()
            if each.is_in(*self._options.profiles) and (not only or each.id in only or each.rule in only)
        ]

    def _chosen(self, wanted: Sequence[Requirement], server: Server) -> list[Check]:
        """The checks of what is wanted and declared; those that take long are the first."""
        if (kept := self._options.replay) is not None:
            return (
                [Check(wanted[0].id, "replay", lambda case: replay(case, kept["steps"]), SSE, "any")] if wanted else []
            )
        ids = {each.id for each in wanted if each.feature is None or each.feature in server.features}
        if self._options.only and ids & set(MONITORED):
            ids.add(_SHOWING)  # something has to happen for a monitor to see
        chosen = [each for each in checks().values() if each.requirement in ids]
        order = {"slow": 0, "any": 1, "alone": 2}
        return sorted(chosen, key=lambda each: order[each.when])

    def _faces(self, check: Check) -> list[Face]:
        through = self._options.transport
        wanted = [
            face
            for face in check.faces
            if self._via in ("both", face.via) and (face.transport == "-" or through in ("both", face.transport))
        ]
        # What only raw HTTP or one transport can show is shown so, whatever was asked for.
        return wanted or [*check.faces[:1]]

    # -- the server ----------------------------------------------------------------------------------------------------

    async def _server(self) -> Server:
        http = self._http(
            Evidence(self._redactor), "the first look", Monitors(self._redactor, extended=False), judged=False
        )
        if self._options.probe:
            await probe(http, self._target)
        declared = await declared_by(http)
        features = frozenset[str]()
        if self._options.profiles != ("base",):
            given: list[str] = declared["extended"] if declared else []
            features = frozenset(self._target.capabilities if self._target.capabilities is not None else given)
        driver, model = driver_of(self._target, declared)
        return Server(
            target=self._target,
            driver=driver,
            model=model,
            features=features,
            declared=declared,
            extended="cursors" in features,
        )

    @asynccontextmanager
    async def _suite(self, server: Server) -> AsyncGenerator[Suite]:
        callbacks = Callbacks(self._target.callback_host)
        async with AsyncExitStack() as stack:
            model = None
            if server.driver == "model":
                model = ScriptedModel()
                host, _, port = self._target.model_listen.rpartition(":")
                try:
                    await stack.enter_async_context(HttpServer(model.answer, host, int(port)))
                except (OSError, ValueError) as failure:
                    raise TargetError(
                        f"the suite's model cannot listen on {self._target.model_listen!r} (model_listen): {failure}"
                    ) from None
            local = self._target.callback_host in ("127.0.0.1", "localhost", "::1")
            tools = await stack.enter_async_context(
                HttpServer(callbacks.answer, "127.0.0.1" if local else "0.0.0.0")  # noqa: S104 - asked for by callback_host
            )
            callbacks.port = tools.port
            yield Suite(
                server=server,
                monitors=Monitors(self._redactor, extended=server.extended),
                callbacks=callbacks,
                model=model,
                seed=self._options.seed,
                examples=self._options.examples,
                mark=token_hex(4),
            )

    def _http(self, evidence: Evidence, name: str, monitors: Monitors, *, judged: bool = True) -> Http:
        def report(requirement: str, message: str) -> None:
            if not judged:
                return
            already = sum(each.requirement == requirement for each in self._violations)
            if already < 20:
                self._violations.append(Violation(requirement, self._redactor(message), name, evidence.lines))

        watch = Watch(monitors, report, evidence)
        return Http(
            self._target.url,
            self._target.keys.first,
            watch=watch,
            client=self._client,
            patience=self._patience,
            deadline=self._target.timing.seconds,
        )

    async def _warm_up(self, suite: Suite) -> None:
        """Let each server load what it loads at the first call of a model. Whether it works is for the checks to say."""
        monitors = Monitors(self._redactor, extended=False)
        http = self._http(Evidence(self._redactor), "the warm-up", monitors, judged=False)
        case = Case(suite, Face(), http, "the warm-up")
        others = [each for each in (self._target.limited_url, self._target.trimmed_url) if each]
        await asyncio.gather(*(_warmed_up(case, http.at(url, http.key)) for url in (self._target.url, *others)))

    async def _refusals(self, server: Server, suite: Suite, wanted: Collection[Requirement]) -> None:
        """What the server does not declare must truly be refused."""
        if "EP-capabilities.refused" not in {each.id for each in wanted}:
            return
        missing = sorted(set(UNDECLARED) - server.features)
        if missing and "capabilities" in server.features:
            http = self._http(Evidence(self._redactor), "undeclared features", suite.monitors)
            case = Case(suite, Face(), http, "undeclared features")
            for feature in missing:
                try:
                    answer = await UNDECLARED[feature](case)
                except (Blocked, NotExercised):
                    continue
                if answer.status < 400:
                    http.watch.report(
                        "EP-capabilities.refused", f"{feature} is not declared, and {answer.request} works"
                    )

    # -- running -------------------------------------------------------------------------------------------------------

    async def _run_all(self, suite: Suite, jobs: Sequence[tuple[Check, Face]]) -> None:
        total = len(jobs)
        # Where requests are few, checks that share them would only keep one another waiting.
        at_once = asyncio.Semaphore(1 if _is_slow(suite.server) else _PARALLEL)

        async def one(check: Check, face: Face) -> None:
            outcome = await self._execute(suite, check, face)
            self._outcomes.append(outcome)
            self._progress(len(self._outcomes), total, outcome)

        async def limited(check: Check, face: Face) -> None:
            async with at_once:
                await one(check, face)

        free = not _is_slow(suite.server)
        together = [
            one(*job) if job[0].when == "slow" and free else limited(*job) for job in jobs if job[0].when != "alone"
        ]
        await asyncio.gather(*together)
        for check, face in jobs:
            if check.when == "alone":
                await one(check, face)

    async def _execute(self, suite: Suite, check: Check, face: Face) -> Outcome:
        evidence = Evidence(self._redactor)
        name = f"{check.requirement} {check.name}"
        case = Case(suite, face, self._http(evidence, name, suite.monitors), name)
        begun = monotonic()
        longest = case.deadline * (_LONGEST + self._options.examples) * (30 if _is_slow(suite.server) else 1)
        requirement, status, message = check.requirement, "PASS", ""
        try:
            async with asyncio.timeout(longest):
                await check.run(case)
        except Failed as failed:
            requirement, status, message = failed.requirement or requirement, "FAIL", failed.message
        except (Blocked, NotExercised) as reason:
            status, message = "NOT_EXERCISED", str(reason)
        except NotApplicable as reason:
            status, message = "NOT_APPLICABLE", str(reason)
        except TimeoutError:
            status, message = "NOT_EXERCISED", f"it was not done within {longest:g} s"
        except Exception as error:  # noqa: BLE001 - a defect of the suite is told as such, and stops nothing else
            where = traceback.extract_tb(error.__traceback__)[-1]
            status = "HARNESS_ERROR"
            message = f"{type(error).__name__}: {error} ({where.name}, line {where.lineno})"
        return Outcome(
            requirement,
            check.name,
            str(face),
            cast("Any", status),
            self._redactor(message)[:1500],
            monotonic() - begun,
            () if status == "PASS" else evidence.lines,
        )

    def _result(self, requirement: Requirement, suite: Suite) -> Result:
        # Where nothing that was asked for worked, monitors have seen no gateway, whatever they have seen.
        alive = any(each.status == "PASS" for each in self._outcomes)
        declared = requirement.feature is None or requirement.feature in suite.server.features
        return verdict_on(
            requirement,
            sorted(
                (each for each in self._outcomes if each.requirement == requirement.id),
                key=lambda each: (each.check, each.face),
            ),
            [each for each in self._violations if each.requirement == requirement.id],
            declared=declared,
            observed=suite.monitors.observed[requirement.id] * alive if requirement.id in MONITORED else None,
        )


# A check that provokes what most monitors look at.
_SHOWING: Final = "EVT-3"


def _is_slow(server: Server) -> bool:
    """Whether the server lets so few requests through that they have to be waited for."""
    return 0 < _rpm(server) < _FEW


def _rpm(server: Server) -> int:
    """How many requests a minute the server lets through with a key; 0 where there is no limit, or none is known."""
    rpm = server.limit("rpm", server.target.limits.rpm)
    return rpm if isinstance(rpm, int) else 0


def _checks(number: int) -> str:
    return "1 check has" if number == 1 else f"{number} checks have"


async def _warmed_up(case: Case, http: Http) -> None:
    """Have one prompt answered."""
    with suppress(Blocked, NotExercised, TimeoutError):
        async with asyncio.timeout(_WARM_UP * case.deadline), case.session(http) as session:
            (await session.prompt(case.plain())).needed(202)
            while len(await session.history()) < 2:
                await asyncio.sleep(0.2)


def _via(wanted: Via | None) -> Via:
    if wanted in ("sdk", "both") and not client_is_installed():
        raise TargetError(f"--via {wanted} needs the Python client: install cmdc-client beside cmdc-conformance")
    return wanted or ("both" if client_is_installed() else "raw")
