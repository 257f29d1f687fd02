"""Prices and costs by litellm's list, once litellm is loaded."""

from __future__ import annotations

from typing import Any

from cmdc_gateway.protocol.history import TokenUsage
from cmdc_gateway.providers.litellm import library
from cmdc_gateway.providers.provider import Price


def price(model: str) -> Price | None:
    """The price of a token; None for a model without a price, or before litellm is loaded."""
    entry = _entry(model)
    if entry is None:
        return None
    prompt, completion = entry.get("input_cost_per_token"), entry.get("output_cost_per_token")
    return None if prompt is None or completion is None else Price(float(prompt), float(completion))


def cost_usd(model: str, usage: TokenUsage, reported: Any) -> float:
    """The cost of a call. `reported` is litellm's usage object, None if the provider reported no usage."""
    token_price = price(model)
    if token_price is None:
        return 0.0
    try:
        # litellm also knows the prices of cached tokens, long contexts and priority.
        return float(sum(library.load().cost_per_token(model=model, usage_object=reported))) if reported else 0.0
    except Exception:  # noqa: BLE001 - whatever fails in litellm, the two basic prices are known
        return usage.prompt_tokens * token_price.prompt + usage.completion_tokens * token_price.completion


def _entry(model: str) -> dict[str, Any] | None:
    """The model's entry in litellm's list. litellm's own look-up sends requests to some providers, so it is not used."""
    if not library.is_loaded():
        return None
    entries: dict[str, Any] = library.load().model_cost
    provider, _, name = model.partition("/")
    if model in entries:
        return entries[model]
    entry = entries.get(name)
    return entry if entry is not None and entry.get("litellm_provider") == provider else None
