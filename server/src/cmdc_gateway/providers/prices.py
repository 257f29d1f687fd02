"""What tokens cost, from the list that litellm carries, without importing litellm."""

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
    """US dollars per token for prompts of more than `above` tokens. `cached` is for what the provider remembered."""

    above: int
    prompt: float
    completion: float
    cached: float


class PriceList:
    """The tariffs of some providers' models, by litellm's names for them."""

    def __init__(self, listed: Mapping[str, Mapping[str, Any]], providers: Iterable[str]) -> None:
        wanted = frozenset(providers)
        self._tiers = {
            self._full_name(name, entry["litellm_provider"]): _price_tiers(entry)
            for name, entry in listed.items()
            if entry.get("litellm_provider") in wanted and _PROMPT in entry and _COMPLETION in entry
        }

    def price(self, model: str) -> Price | None:
        """What a token of a short prompt costs."""
        tariffs = self._tiers.get(model)
        return Price(tariffs[0].prompt, tariffs[0].completion) if tariffs else None

    def cost_usd(self, model: str, usage: TokenUsage, cached_tokens: int = 0) -> float:
        """What a call came to; 0 where no price is known. `cached_tokens` are among the tokens of the prompt."""
        tariffs = self._tiers.get(model)
        if not tariffs:
            return 0.0
        tariff = next(tariff for tariff in reversed(tariffs) if usage.prompt_tokens > tariff.above or not tariff.above)
        cached = min(max(cached_tokens, 0), usage.prompt_tokens)
        fresh = usage.prompt_tokens - cached
        return fresh * tariff.prompt + cached * tariff.cached + usage.completion_tokens * tariff.completion

    @staticmethod
    def _full_name(name: str, provider: str) -> str:
        return name if name.startswith(f"{provider}/") else f"{provider}/{name}"


@functools.cache
def price_list(providers: frozenset[str]) -> PriceList:
    """The list for these providers. Reads some MB, once."""
    spec = find_spec("litellm")  # looks for the package, and does not import it
    if spec is None or not spec.submodule_search_locations:
        return PriceList({}, ())
    listed = json.loads(Path(spec.submodule_search_locations[0], _FILE).read_text(encoding="utf-8"))
    return PriceList(listed, providers)


def _price_tiers(entry: Mapping[str, Any]) -> tuple[PriceTier, ...]:
    """From the shortest prompts to the longest."""
    ends = {0: ""}
    for name in entry:
        if found := _TIER.fullmatch(name):
            ends[int(found[1]) * 1000] = f"_above_{found[1]}k_tokens"
    tariffs: list[PriceTier] = []
    for above, end in sorted(ends.items()):
        prompt = float(entry[_PROMPT + end])
        completion = float(entry.get(_COMPLETION + end) or entry[_COMPLETION])
        tariffs.append(PriceTier(above, prompt, completion, float(entry.get(_CACHED + end) or prompt)))
    return tuple(tariffs)
