"""Prices of tokens, from the list in the litellm package. litellm itself is not imported."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cmdc_gateway.protocol.history import TokenUsage
from cmdc_gateway.providers.provider import Price

_FILE = "model_prices_and_context_window_backup.json"
_PROMPT, _COMPLETION, _CACHED = "input_cost_per_token", "output_cost_per_token", "cache_read_input_token_cost"
_TIER = re.compile(rf"{_PROMPT}_above_(\d+)k_tokens")


@dataclass(frozen=True, slots=True)
class PriceTier:
    """US dollars per token for prompts of more than `above` tokens. `cached` is the price of cached input tokens."""

    above: int
    prompt: float
    completion: float
    cached: float


class PriceList:
    """The prices of the models of some providers, by their names in litellm's syntax."""

    def __init__(self, entries: Mapping[str, Mapping[str, Any]], providers: Iterable[str]) -> None:
        included = frozenset(providers)
        self._tiers = {
            self._qualified(name, entry["litellm_provider"]): _price_tiers(entry)
            for name, entry in entries.items()
            if entry.get("litellm_provider") in included and _PROMPT in entry and _COMPLETION in entry
        }

    def price(self, model: str) -> Price | None:
        """The price in the lowest tier; None for an unknown model."""
        tiers = self._tiers.get(model)
        return Price(tiers[0].prompt, tiers[0].completion) if tiers else None

    def cost_usd(self, model: str, usage: TokenUsage, cached_tokens: int = 0) -> float:
        """The cost of a call; 0 for an unknown model. `cached_tokens` are part of the input tokens."""
        tiers = self._tiers.get(model)
        if not tiers:
            return 0.0
        tier = next(tier for tier in reversed(tiers) if usage.prompt_tokens > tier.above or not tier.above)
        cached = min(max(cached_tokens, 0), usage.prompt_tokens)
        uncached = usage.prompt_tokens - cached
        return uncached * tier.prompt + cached * tier.cached + usage.completion_tokens * tier.completion

    @staticmethod
    def _qualified(name: str, provider: str) -> str:
        return name if name.startswith(f"{provider}/") else f"{provider}/{name}"


@functools.cache
def price_list(providers: frozenset[str]) -> PriceList:
    """The prices for these providers. Parses a file of several MB, once."""
    spec = find_spec("litellm")  # finds the package without importing it
    if spec is None or not spec.submodule_search_locations:
        return PriceList({}, ())
    entries = json.loads(Path(spec.submodule_search_locations[0], _FILE).read_text(encoding="utf-8"))
    return PriceList(entries, providers)


def _price_tiers(entry: Mapping[str, Any]) -> tuple[PriceTier, ...]:
    """The tiers of a model, in ascending order."""
    suffixes = {0: ""}
    for name in entry:
        if match := _TIER.fullmatch(name):
            suffixes[int(match[1]) * 1000] = f"_above_{match[1]}k_tokens"
    tiers: list[PriceTier] = []
    for above, suffix in sorted(suffixes.items()):
        prompt = float(entry[_PROMPT + suffix])
        completion = float(entry.get(_COMPLETION + suffix) or entry[_COMPLETION])
        tiers.append(PriceTier(above, prompt, completion, float(entry.get(_CACHED + suffix) or prompt)))
    return tuple(tiers)
