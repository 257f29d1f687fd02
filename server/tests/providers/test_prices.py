"""Prices of tokens."""

from __future__ import annotations

import pytest
from cmdc_gateway.protocol.history import TokenUsage
from cmdc_gateway.providers.chat_completions.dialects import DIALECTS
from cmdc_gateway.providers.prices import PriceList, price_list
from cmdc_gateway.providers.provider import Price

LIST = PriceList(
    {
        "small": {"litellm_provider": "openai", "input_cost_per_token": 1.0, "output_cost_per_token": 10.0},
        "large": {
            "litellm_provider": "openai",
            "input_cost_per_token": 1.0,
            "output_cost_per_token": 10.0,
            "cache_read_input_token_cost": 0.5,
            "input_cost_per_token_above_272k_tokens": 2.0,
            "output_cost_per_token_above_272k_tokens": 20.0,
        },
        "deepseek/chat": {"litellm_provider": "deepseek", "input_cost_per_token": 3.0, "output_cost_per_token": 4.0},
        "elsewhere": {"litellm_provider": "other", "input_cost_per_token": 1.0, "output_cost_per_token": 1.0},
        "draws": {"litellm_provider": "openai", "input_cost_per_image": 1.0},
    },
    {"openai", "deepseek"},
)


@pytest.mark.parametrize(
    ("model", "price"),
    [
        ("openai/small", Price(1.0, 10.0)),
        ("deepseek/chat", Price(3.0, 4.0)),
        ("small", None),
        ("deepseek/small", None),
        ("other/elsewhere", None),
        ("openai/draws", None),
    ],
)
def test_a_price_belongs_to_a_model_and_its_provider(model: str, price: Price | None) -> None:
    assert LIST.price(model) == price


def test_cached_tokens_have_their_own_price() -> None:
    assert LIST.cost_usd("openai/large", TokenUsage(100, 1), cached_tokens=60) == 40 * 1.0 + 60 * 0.5 + 10.0
    assert LIST.cost_usd("openai/small", TokenUsage(100, 1), cached_tokens=60) == 100 * 1.0 + 10.0
    assert LIST.cost_usd("openai/large", TokenUsage(10, 0), cached_tokens=60) == 10 * 0.5


def test_a_long_prompt_is_priced_in_a_higher_tier() -> None:
    assert LIST.cost_usd("openai/large", TokenUsage(272_000, 1)) == 272_000 * 1.0 + 10.0
    assert LIST.cost_usd("openai/large", TokenUsage(272_001, 1)) == 272_001 * 2.0 + 20.0


def test_an_unknown_model_costs_nothing() -> None:
    assert LIST.cost_usd("openai/unheard-of", TokenUsage(10, 10)) == 0.0


def test_the_bundled_list_has_prices_for_models_with_a_chat_completions_endpoint() -> None:
    listed = price_list(frozenset(DIALECTS))

    assert listed.price("openai/gpt-4o") is not None
    assert listed.price("deepseek/deepseek-chat") is not None
    assert listed.price("gemini/gemini-2.5-pro") is None
