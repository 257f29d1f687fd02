"""Which models have a Chat Completions endpoint, and its URL."""

from __future__ import annotations

from dataclasses import dataclass

from cmdc_gateway.providers.chat_completions.dialects import DIALECTS, STANDARD, Dialect
from cmdc_gateway.providers.target import ModelTarget


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to send a request, and in which dialect."""

    url: str
    dialect: Dialect


def find_endpoint(target: ModelTarget) -> Endpoint | None:
    """The endpoint of a model; None if its provider has no such API, or needs a base URL that is not configured."""
    dialect = DIALECTS.get(target.prefix)
    if dialect is None:
        return None
    if target.api_base is None:
        return Endpoint(dialect.base_url + dialect.path, dialect) if dialect.base_url is not None else None
    base_url = target.api_base.rstrip("/")
    if dialect.path.startswith("/v1/"):
        base_url = base_url.removesuffix("/v1")
    if target.prefix == "openai":  # with a base URL, any OpenAI-compatible server
        dialect = STANDARD
    return Endpoint(base_url + dialect.path, dialect)
