"""Runs the checks that the options select against a server, and makes the report."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from secrets import token_hex
from time import monotonic
from typing import Any, Final, cast

from cmdc_conformance.checks.catalog import checks
from cmdc_conformance.checks.context import CheckContext, RunState
from cmdc_conformance.checks.properties.executor import replay
from cmdc_conformance.checks.registry import RAW_SSE, Check
from cmdc_conformance.drivers.callbacks import Callbacks
from cmdc_conformance.drivers.http_server import HttpServer
from cmdc_conformance.drivers.model import ScriptedModel
from cmdc_conformance.evidence import Evidence, Redactor
from cmdc_conformance.findings import Blocked, Failed, NotApplicable, NotExercised, Outcome, Variant, Violation
from cmdc_conformance.reports.report import Report
from cmdc_conformance.reports.verdict import Result, decide, with_baseline
from cmdc_conformance.requirements import Requirement
from cmdc_conformance.run.discovery import FEATURE_PROBES, discover
from cmdc_conformance.run.options import Options
from cmdc_conformance.target import ServerInfo, Target, TargetError
from cmdc_conformance.wire.http import ApiClient, RateLimitBackoff, http_client
from cmdc_conformance.wire.monitors import MONITORED, Monitors
from cmdc_conformance.wire.reader import Observer

Progress = Callable[[int, int, Outcome], None]
"""Called after each check with the number finished, the total and the outcome."""
Notice = Callable[[str], None]
"""Called with a sentence for the user."""

# In units of the target's deadline.
_CHECK_TIMEOUT: Final = 12
_WARM_UP_TIMEOUT: Final = 6
# With a rate limit below this many requests per minute, checks mostly wait.
_LOW_RATE_LIMIT: Final = 3000
_LOW_RATE_LIMIT_FACTOR: Final = 30
_PARALLEL_CHECKS: Final = 8
_VIOLATIONS_PER_REQUIREMENT: Final = 20
# A check that provokes most of what the monitors validate.
_PROVOKES_MONITORS: Final = "EVT-3"


def run_suite(
    target: Target,
    options: Options | None = None,
    progress: Progress | None = None,
    notice: Notice | None = None,
) -> Report:
    """Test a server. Raises TargetError if it cannot be tested."""
    return asyncio.run(run_suite_async(target, options, progress, notice))


async def run_suite_async(
    target: Target,
    options: Options | None = None,
    progress: Progress | None = None,
    notice: Notice | None = None,
) -> Report:
    """Test a server, inside a running event loop. Raises TargetError if it cannot be tested."""
    return await _Runner(
        target.checked(), options or Options(), progress or _ignore_progress, notice or _ignore_notice
    ).report()


def _ignore_progress(done: int, total: int, outcome: Outcome) -> None:
    pass


def _ignore_notice(sentence: str) -> None:
    pass


class _Runner:
    def __init__(self, target: Target, options: Options, progress: Progress, notice: Notice) -> None:
        self._target = target
        self._options = options
        self._progress = progress
        self._notice = notice
        self._redactor = Redactor(target.keys.secrets)
        self._backoff = RateLimitBackoff(notice)
        self._client = http_client()
        self._violations: list[Violation] = []
        self._outcomes: list[Outcome] = []
        self._via = options.resolved_via()

    async def report(self) -> Report:
        """Run all selected checks."""
        started = monotonic()
        selected = self._options.requirements()
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._client.aclose)
            server = await self._discover()
            state = await stack.enter_async_context(self._run_state(server))
            observable = [each for each in selected if each.unobservable_with(server.driver) is None]
            jobs = [(each, variant) for each in self._checks(observable, server) for variant in self._variants(each)]
            if _is_rate_limited(server):
                self._notice(
                    f"the server allows {_rpm(server)} requests a minute per key, so {_count(len(jobs))} will mostly"
                    " wait; without the rate limit, a run takes minutes instead of hours"
                )
            await self._warm_up(state)
            await self._check_undeclared_features(state, observable)
            await self._run_all(state, jobs)
            results = with_baseline([self._result(each, state) for each in observable], self._options.baseline)
        return Report(
            target=self._target,
            server=server,
            profile=self._options.profile,
            via=self._via,
            transport=self._options.transport,
            only=self._options.only,
            seed=self._options.seed,
            results=results,
            hidden={each.id: why for each in selected if (why := each.unobservable_with(server.driver))},
            coverage={event: dict(variants) for event, variants in state.monitors.coverage.items()},
            waited=self._backoff.waited,
            seconds=monotonic() - started,
        )

    # -- selection -----------------------------------------------------------------------------------------------------

    def _checks(self, selected: Sequence[Requirement], server: ServerInfo) -> list[Check]:
        """The checks of the selected requirements that the server declares, slow ones first."""
        if (replayed := self._options.replay) is not None:
            steps = replayed["steps"]
            return [
                Check(each.id, "replay", lambda ctx: replay(ctx, steps), RAW_SSE, "parallel") for each in selected[:1]
            ]
        ids = {each.id for each in selected if each.feature is None or each.feature in server.features}
        if self._options.only and ids & set(MONITORED):
            ids.add(_PROVOKES_MONITORS)
        order = {"slow": 0, "parallel": 1, "exclusive": 2}
        return sorted(
            (each for each in checks().values() if each.requirement in ids), key=lambda each: order[each.schedule]
        )

    def _variants(self, check: Check) -> list[Variant]:
        transport = self._options.transport
        matching = [
            variant
            for variant in check.variants
            if self._via in ("both", variant.via) and variant.transport in ("-", *_transports(transport))
        ]
        # A check without a matching variant still runs, in its first one.
        return matching or [*check.variants[:1]]

    # -- the server ----------------------------------------------------------------------------------------------------

    async def _discover(self) -> ServerInfo:
        monitors = Monitors(self._redactor, extended=False)
        http = self._http(Evidence(self._redactor), "discovery", monitors, monitored=False)
        return await discover(http, self._target, self._options)

    @asynccontextmanager
    async def _run_state(self, server: ServerInfo) -> AsyncGenerator[RunState]:
        """Serve the callback tools and, if the server uses it, the suite's model."""
        callbacks = Callbacks(self._target.callback_host)
        async with AsyncExitStack() as stack:
            model = None
            if server.driver == "model":
                model = ScriptedModel()
                host, _, port = self._target.model_listen.rpartition(":")
                try:
                    await stack.enter_async_context(HttpServer(model.handle, host, int(port)))
                except (OSError, ValueError) as failure:
                    raise TargetError(
                        f"the suite's model cannot listen on {self._target.model_listen!r} (model_listen): {failure}"
                    ) from None
            is_local = self._target.callback_host in ("127.0.0.1", "localhost", "::1")
            tools = await stack.enter_async_context(
                HttpServer(callbacks.handle, "127.0.0.1" if is_local else "0.0.0.0")  # noqa: S104 - callback_host asks for it
            )
            callbacks.port = tools.port
            yield RunState(
                server=server,
                monitors=Monitors(self._redactor, extended=server.extended),
                callbacks=callbacks,
                model=model,
                seed=self._options.seed,
                examples=self._options.examples,
                mark=token_hex(4),
                resources=stack,
            )

    def _http(self, evidence: Evidence, name: str, monitors: Monitors, *, monitored: bool = True) -> ApiClient:
        def report(requirement: str, message: str) -> None:
            if not monitored:
                return
            count = sum(each.requirement == requirement for each in self._violations)
            if count < _VIOLATIONS_PER_REQUIREMENT:
                self._violations.append(Violation(requirement, self._redactor(message), name, evidence.lines))

        return ApiClient(
            self._target.url,
            self._target.keys.first,
            observer=Observer(monitors, report, evidence),
            client=self._client,
            backoff=self._backoff,
            deadline=self._target.timing.seconds,
        )

    async def _warm_up(self, state: RunState) -> None:
        """Make each server call its model once, so that no check waits for lazy imports. Failures are ignored."""
        monitors = Monitors(self._redactor, extended=False)
        http = self._http(Evidence(self._redactor), "warm-up", monitors, monitored=False)
        ctx = CheckContext(state, Variant(), http, "warm-up")
        urls = (self._target.url, self._target.limited_url, self._target.trimmed_url)
        await asyncio.gather(*(_warm_up_server(ctx, http.with_url(url, http.key)) for url in urls if url))

    async def _check_undeclared_features(self, state: RunState, selected: Collection[Requirement]) -> None:
        """Verify that the server refuses every feature that it does not declare."""
        if "EP-capabilities.refused" not in {each.id for each in selected}:
            return
        missing = sorted(set(FEATURE_PROBES) - state.server.features)
        if missing and "capabilities" in state.server.features:
            http = self._http(Evidence(self._redactor), "undeclared features", state.monitors)
            ctx = CheckContext(state, Variant(), http, "undeclared features")
            for feature in missing:
                with suppress(Blocked, NotExercised):
                    response = await FEATURE_PROBES[feature](ctx)
                    if response.status < 400:
                        http.observer.report(
                            "EP-capabilities.refused", f"{feature} is not declared, but {response.request} succeeds"
                        )

    # -- running -------------------------------------------------------------------------------------------------------

    async def _run_all(self, state: RunState, jobs: Sequence[tuple[Check, Variant]]) -> None:
        total = len(jobs)
        rate_limited = _is_rate_limited(state.server)
        # Parallel checks would only take a low rate limit away from each other.
        slots = asyncio.Semaphore(1 if rate_limited else _PARALLEL_CHECKS)

        async def run(check: Check, variant: Variant) -> None:
            outcome = await self._execute(state, check, variant)
            self._outcomes.append(outcome)
            self._progress(len(self._outcomes), total, outcome)

        async def run_in_slot(check: Check, variant: Variant) -> None:
            async with slots:
                await run(check, variant)

        await asyncio.gather(
            *(
                run(*job) if job[0].schedule == "slow" and not rate_limited else run_in_slot(*job)
                for job in jobs
                if job[0].schedule != "exclusive"
            )
        )
        for check, variant in jobs:
            if check.schedule == "exclusive":
                await run(check, variant)

    async def _execute(self, state: RunState, check: Check, variant: Variant) -> Outcome:
        evidence = Evidence(self._redactor)
        name = f"{check.requirement} {check.name}"
        ctx = CheckContext(state, variant, self._http(evidence, name, state.monitors), name)
        started = monotonic()
        timeout = ctx.deadline * (_CHECK_TIMEOUT + self._options.examples)
        if _is_rate_limited(state.server):
            timeout *= _LOW_RATE_LIMIT_FACTOR
        requirement, status, message = check.requirement, "PASS", ""
        try:
            async with asyncio.timeout(timeout):
                await check.run(ctx)
        except Failed as failed:
            requirement, status, message = failed.requirement or requirement, "FAIL", failed.message
        except (Blocked, NotExercised) as reason:
            status, message = "NOT_EXERCISED", str(reason)
        except NotApplicable as reason:
            status, message = "NOT_APPLICABLE", str(reason)
        except TimeoutError:
            status, message = "NOT_EXERCISED", f"the check did not finish within {timeout:g} s"
        except Exception as error:  # noqa: BLE001 - a defect of one check must not end the run
            where = traceback.extract_tb(error.__traceback__)[-1]
            status = "HARNESS_ERROR"
            message = f"{type(error).__name__}: {error} ({where.name}, line {where.lineno})"
        return Outcome(
            requirement,
            check.name,
            str(variant),
            cast("Any", status),
            self._redactor(message)[:1500],
            monotonic() - started,
            () if status == "PASS" else evidence.lines,
        )

    def _result(self, requirement: Requirement, state: RunState) -> Result:
        # If not a single check passed, the server is not a gateway and observations of monitors mean nothing.
        works = any(each.status == "PASS" for each in self._outcomes)
        return decide(
            requirement,
            sorted(
                (each for each in self._outcomes if each.requirement == requirement.id),
                key=lambda each: (each.check, each.variant),
            ),
            [each for each in self._violations if each.requirement == requirement.id],
            declared=requirement.feature is None or requirement.feature in state.server.features,
            observed=state.monitors.observed[requirement.id] * works if requirement.id in MONITORED else None,
        )


def _transports(option: str) -> tuple[str, ...]:
    return ("sse", "ws") if option == "both" else (option,)


def _is_rate_limited(server: ServerInfo) -> bool:
    """Whether the server allows so few requests that the suite has to wait for them."""
    return 0 < _rpm(server) < _LOW_RATE_LIMIT


def _rpm(server: ServerInfo) -> int:
    """The requests per minute that the server allows per key; 0 if it has no limit or does not declare one."""
    rpm = server.limit("rpm", server.target.limits.rpm)
    return rpm if isinstance(rpm, int) else 0


def _count(checks: int) -> str:
    return "1 check" if checks == 1 else f"{checks} checks"


async def _warm_up_server(ctx: CheckContext, http: ApiClient) -> None:
    with suppress(Blocked, NotExercised, TimeoutError):
        async with asyncio.timeout(_WARM_UP_TIMEOUT * ctx.deadline), ctx.session(http) as session:
            (await session.prompt(ctx.simple_prompt())).require(202)
            while len(await session.history()) < 2:
                await asyncio.sleep(0.2)
