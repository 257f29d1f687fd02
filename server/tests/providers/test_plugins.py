"""Provider plugins are found through the entry points of installed packages."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from cmdc_gateway import extensions
from cmdc_gateway.providers.aliases import target_from_config
from cmdc_gateway.providers.hosted import ALIAS_ONLY
from cmdc_gateway.providers.plugin import load_plugins, provider_names
from cmdc_gateway.providers.registry import ModelRegistry, UnknownModel
from cmdc_gateway.providers.target import ModelTarget
from cmdc_gateway.providers.vendors import VENDORS
from cmdc_testkit.distributions import write_distribution

ACME = """
from cmdc_gateway.providers.scripted.provider import ScriptedProvider


class AcmePlugin:
    def __init__(self, context):
        self.context = context
        self.targets = []

    def unavailable(self):
        return None if self.context.environ.get("ACME_API_KEY") else "ACME_API_KEY is not set on the server"

    def create(self, target):
        self.targets.append(target)
        return ScriptedProvider()

    async def close(self):
        pass
"""


@pytest.fixture(autouse=True)
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installed package with the provider `acme`."""
    write_distribution(
        tmp_path, "cmdc-acme", {"cmdc_gateway.providers": {"acme": "cmdc_acme:AcmePlugin"}}, cmdc_acme=ACME
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "cmdc_acme", raising=False)
    extensions._entries.cache_clear()
    yield
    extensions._entries.cache_clear()


def test_a_package_adds_a_provider() -> None:
    plugins = load_plugins({"ACME_API_KEY": "k"}, timeout=7.0)
    models = ModelRegistry(aliases={}, plugins=plugins)

    assert models.names() == ["acme:*", "scripted:*"]
    assert models.find("acme:large") is models.find("acme:large")
    acme: object = plugins["acme"]
    assert vars(acme)["targets"] == [ModelTarget("acme/large")]
    assert (vars(acme)["context"].name, vars(acme)["context"].timeout) == ("acme", 7.0)


def test_a_plugin_says_why_its_models_are_unavailable() -> None:
    models = ModelRegistry(aliases={}, plugins=load_plugins({}))

    assert "acme:*" not in models.names()
    with pytest.raises(UnknownModel, match="ACME_API_KEY is not set on the server"):
        models.find("acme:large")


@pytest.mark.parametrize("model", ["acme:large", "acme/large"])
def test_an_alias_may_name_a_model_of_a_plugin(model: str) -> None:
    target = target_from_config(
        "house:large", model=model, api_base="http://h/v1", api_key_env="KEY", environ={"KEY": "k"}
    )
    plugins = load_plugins({})

    ModelRegistry(aliases={"house:large": target}, plugins=plugins).find("house:large")

    assert vars(plugins["acme"])["targets"] == [ModelTarget("acme/large", "http://h/v1", "k")]


def test_finding_the_names_imports_nothing(tmp_path: Path) -> None:
    (tmp_path / "cmdc_acme.py").write_text("raise AssertionError")

    assert "acme" in provider_names()


def test_every_built_in_provider_is_registered() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]

    assert set(project["entry-points"]["cmdc_gateway.providers"]) == {*VENDORS, *ALIAS_ONLY, "scripted"}
    assert set(project["entry-points"]["cmdc_gateway.providers"]) < set(provider_names())
