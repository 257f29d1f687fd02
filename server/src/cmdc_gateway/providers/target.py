"""Where a model is."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ModelTarget:
    """A model's name in litellm's syntax, `prefix/model`, and the operator's address and credential for it."""

    model: str
    api_base: str | None = None
    api_key: str | None = field(default=None, repr=False)
