from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from attrs import define as _attrs_define

from ..types import UNSET, Unset

if TYPE_CHECKING:
    from ..models.approval_settings import ApprovalSettings
    from ..models.budget import Budget
    from ..models.create_session_body_metadata import CreateSessionBodyMetadata
    from ..models.create_session_body_provider_opts import CreateSessionBodyProviderOpts


T = TypeVar("T", bound="CreateSessionBody")


@_attrs_define
class CreateSessionBody:
    """Settings of a new session.

    Attributes:
        model (str | Unset): `provider:model`; required unless the blueprint sets it.
        session_id (str | Unset): Default: 32 random hex digits.
        system_prompt (str | Unset): System prompt of the model.
        working_dir (str | Unset): Working directory of the built-in tools, inside the workspace.
        tools (list[str] | Unset): Names of built-in tools.
        plugins (list[str] | Unset): `human_approval`: `shell` and `write_file` require approval.
        blueprint (str | Unset): Named defaults for these fields, from the server's configuration.
        max_turns (int | Unset): Maximum model calls per run; default 100.
        max_tokens (int | Unset): Maximum output tokens per model call.
        skills_dirs (list[str] | Unset): Directories inside the workspace that contain skills.
        provider_opts (CreateSessionBodyProviderOpts | Unset): Options passed to the model call.
        approval (ApprovalSettings | Unset): Tools that require approval. `*` means every tool except `ask_user`.
        metadata (CreateSessionBodyMetadata | Unset): Up to 16 strings, returned unchanged.
        budget (Budget | Unset): Spending limits of a session.
    """

    model: str | Unset = UNSET
    session_id: str | Unset = UNSET
    system_prompt: str | Unset = UNSET
    working_dir: str | Unset = UNSET
    tools: list[str] | Unset = UNSET
    plugins: list[str] | Unset = UNSET
    blueprint: str | Unset = UNSET
    max_turns: int | Unset = UNSET
    max_tokens: int | Unset = UNSET
    skills_dirs: list[str] | Unset = UNSET
    provider_opts: CreateSessionBodyProviderOpts | Unset = UNSET
    approval: ApprovalSettings | Unset = UNSET
    metadata: CreateSessionBodyMetadata | Unset = UNSET
    budget: Budget | Unset = UNSET

    def to_dict(self) -> dict[str, Any]:
        model = self.model

        session_id = self.session_id

        system_prompt = self.system_prompt

        working_dir = self.working_dir

        tools: list[str] | Unset = UNSET
        if not isinstance(self.tools, Unset):
            tools = self.tools

        plugins: list[str] | Unset = UNSET
        if not isinstance(self.plugins, Unset):
            plugins = self.plugins

        blueprint = self.blueprint

        max_turns = self.max_turns

        max_tokens = self.max_tokens

        skills_dirs: list[str] | Unset = UNSET
        if not isinstance(self.skills_dirs, Unset):
            skills_dirs = self.skills_dirs

        provider_opts: dict[str, Any] | Unset = UNSET
        if not isinstance(self.provider_opts, Unset):
            provider_opts = self.provider_opts.to_dict()

        approval: dict[str, Any] | Unset = UNSET
        if not isinstance(self.approval, Unset):
            approval = self.approval.to_dict()

        metadata: dict[str, Any] | Unset = UNSET
        if not isinstance(self.metadata, Unset):
            metadata = self.metadata.to_dict()

        budget: dict[str, Any] | Unset = UNSET
        if not isinstance(self.budget, Unset):
            budget = self.budget.to_dict()

        field_dict: dict[str, Any] = {}

        field_dict.update({})
        if model is not UNSET:
            field_dict["model"] = model
        if session_id is not UNSET:
            field_dict["sessionId"] = session_id
        if system_prompt is not UNSET:
            field_dict["systemPrompt"] = system_prompt
        if working_dir is not UNSET:
            field_dict["workingDir"] = working_dir
        if tools is not UNSET:
            field_dict["tools"] = tools
        if plugins is not UNSET:
            field_dict["plugins"] = plugins
        if blueprint is not UNSET:
            field_dict["blueprint"] = blueprint
        if max_turns is not UNSET:
            field_dict["maxTurns"] = max_turns
        if max_tokens is not UNSET:
            field_dict["maxTokens"] = max_tokens
        if skills_dirs is not UNSET:
            field_dict["skillsDirs"] = skills_dirs
        if provider_opts is not UNSET:
            field_dict["providerOpts"] = provider_opts
        if approval is not UNSET:
            field_dict["approval"] = approval
        if metadata is not UNSET:
            field_dict["metadata"] = metadata
        if budget is not UNSET:
            field_dict["budget"] = budget

        return field_dict

    @classmethod
    def from_dict(cls, src_dict: Mapping[str, Any]) -> Self:
        from ..models.approval_settings import ApprovalSettings
        from ..models.budget import Budget
        from ..models.create_session_body_metadata import CreateSessionBodyMetadata
        from ..models.create_session_body_provider_opts import (
            CreateSessionBodyProviderOpts,
        )

        d = dict(src_dict)
        model = d.pop("model", UNSET)

        session_id = d.pop("sessionId", UNSET)

        system_prompt = d.pop("systemPrompt", UNSET)

        working_dir = d.pop("workingDir", UNSET)

        tools = cast(list[str], d.pop("tools", UNSET))

        plugins = cast(list[str], d.pop("plugins", UNSET))

        blueprint = d.pop("blueprint", UNSET)

        max_turns = d.pop("maxTurns", UNSET)

        max_tokens = d.pop("maxTokens", UNSET)

        skills_dirs = cast(list[str], d.pop("skillsDirs", UNSET))

        _provider_opts = d.pop("providerOpts", UNSET)
        provider_opts: CreateSessionBodyProviderOpts | Unset
        if isinstance(_provider_opts, Unset):
            provider_opts = UNSET
        else:
            provider_opts = CreateSessionBodyProviderOpts.from_dict(_provider_opts)

        _approval = d.pop("approval", UNSET)
        approval: ApprovalSettings | Unset
        if isinstance(_approval, Unset):
            approval = UNSET
        else:
            approval = ApprovalSettings.from_dict(_approval)

        _metadata = d.pop("metadata", UNSET)
        metadata: CreateSessionBodyMetadata | Unset
        if isinstance(_metadata, Unset):
            metadata = UNSET
        else:
            metadata = CreateSessionBodyMetadata.from_dict(_metadata)

        _budget = d.pop("budget", UNSET)
        budget: Budget | Unset
        if isinstance(_budget, Unset):
            budget = UNSET
        else:
            budget = Budget.from_dict(_budget)

        create_session_body = cls(
            model=model,
            session_id=session_id,
            system_prompt=system_prompt,
            working_dir=working_dir,
            tools=tools,
            plugins=plugins,
            blueprint=blueprint,
            max_turns=max_turns,
            max_tokens=max_tokens,
            skills_dirs=skills_dirs,
            provider_opts=provider_opts,
            approval=approval,
            metadata=metadata,
            budget=budget,
        )

        return create_session_body
