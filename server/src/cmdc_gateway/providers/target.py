"""Which model to call, and where."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ModelTarget:
    """A model as `prefix/model`, in litellm's syntax, with the base URL and the key that the operator configured for it."""

    model: str
    api_base: str | None = None
    api_key: str | None = field(default=None, repr=False)

    @property
    def prefix(self) -> str:
        """The part before the slash: which provider has the model."""
        return self.model.partition("/")[0]

    @property
    def name(self) -> str:
        """The part after the slash: the model's name at its provider."""
        return self.model.partition("/")[2]

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not appear in a message to readers."""
        return tuple(secret for secret in (self.api_key, self.api_base) if secret)
