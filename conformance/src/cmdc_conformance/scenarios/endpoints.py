"""The routes one by one: what they answer, and what they refuse."""

from __future__ import annotations

import re

from cmdc_conformance.case import Case
from cmdc_conformance.check import check
from cmdc_conformance.findings import expect


@check("EP-healthz")
async def health(case: Case) -> None:
    """GET /healthz says that the server is alive."""
    body = (await case.http.get("/healthz")).must_be(200)
    expect(body.get("status") == "ok", f"status is {body.get('status')!r}")
    stamp = str(body.get("timestamp"))
    expect(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", stamp), f"timestamp is {stamp!r}")
