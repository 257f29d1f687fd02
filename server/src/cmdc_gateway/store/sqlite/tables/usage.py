"""Usage by tenant, API key and day."""

from __future__ import annotations

import sqlite3

from cmdc_gateway.protocol.history import TokenUsage
from cmdc_gateway.store.rows import UsageRow


def add(connection: sqlite3.Connection, row: UsageRow) -> None:
    """Add to the usage of this tenant, key and day."""
    connection.execute(
        "INSERT INTO usage (tenant, key_id, day, prompts, prompt_tokens, completion_tokens, cost_usd)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (tenant, key_id, day) DO UPDATE SET prompts = prompts + excluded.prompts,"
        " prompt_tokens = prompt_tokens + excluded.prompt_tokens,"
        " completion_tokens = completion_tokens + excluded.completion_tokens,"
        " cost_usd = cost_usd + excluded.cost_usd",
        (
            row.tenant,
            row.key_id,
            row.day,
            row.prompts,
            row.usage.prompt_tokens,
            row.usage.completion_tokens,
            row.cost_usd,
        ),
    )


def find(connection: sqlite3.Connection, tenant: str) -> list[UsageRow]:
    """The tenant's usage, ordered by key and day."""
    rows = connection.execute(
        "SELECT key_id, day, prompts, prompt_tokens, completion_tokens, cost_usd FROM usage WHERE tenant = ?"
        " ORDER BY key_id, day",
        (tenant,),
    )
    return [
        UsageRow(tenant, key_id, day, prompts, TokenUsage(input_tokens, output_tokens), cost_usd)
        for key_id, day, prompts, input_tokens, output_tokens, cost_usd in rows
    ]


def count_keys(connection: sqlite3.Connection) -> int:
    """The number of API keys, over all tenants, that have usage."""
    (count,) = connection.execute("SELECT count(*) FROM (SELECT DISTINCT tenant, key_id FROM usage)").fetchone()
    return count
