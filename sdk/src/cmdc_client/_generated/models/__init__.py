"""Contains all the data models used in inputs/outputs"""

from .abort_body import AbortBody
from .abort_taken import AbortTaken
from .active_sessions import ActiveSessions
from .approval_settings import ApprovalSettings
from .approve_body import ApproveBody
from .approve_body_args import ApproveBodyArgs
from .budget import Budget
from .callback_call import CallbackCall
from .callback_call_args import CallbackCallArgs
from .callback_error import CallbackError
from .callback_result import CallbackResult
from .capabilities import Capabilities
from .capabilities_durability import CapabilitiesDurability
from .create_session_body import CreateSessionBody
from .create_session_body_metadata import CreateSessionBodyMetadata
from .create_session_body_provider_opts import CreateSessionBodyProviderOpts
from .decision_taken import DecisionTaken
from .decision_taken_action import DecisionTakenAction
from .error_body import ErrorBody
from .error_detail import ErrorDetail
from .event_entry import EventEntry
from .event_entry_data import EventEntryData
from .event_page import EventPage
from .health import Health
from .key_usage import KeyUsage
from .limits import Limits
from .list_sessions_state import ListSessionsState
from .message_entry import MessageEntry
from .message_entry_role import MessageEntryRole
from .message_list import MessageList
from .pending_approval import PendingApproval
from .pending_approval_args import PendingApprovalArgs
from .pending_question import PendingQuestion
from .prompt_accepted import PromptAccepted
from .prompt_body import PromptBody
from .queued_prompt import QueuedPrompt
from .readiness import Readiness
from .register_tool_body import RegisterToolBody
from .register_tool_body_parameters import RegisterToolBodyParameters
from .reject_body import RejectBody
from .respond_body import RespondBody
from .response_taken import ResponseTaken
from .session_created import SessionCreated
from .session_deleted import SessionDeleted
from .session_info import SessionInfo
from .session_info_metadata import SessionInfoMetadata
from .session_info_state import SessionInfoState
from .session_list import SessionList
from .session_stats import SessionStats
from .session_summary import SessionSummary
from .session_summary_metadata import SessionSummaryMetadata
from .session_summary_state import SessionSummaryState
from .tenant_usage import TenantUsage
from .ticket_body import TicketBody
from .ticket_body_scope import TicketBodyScope
from .ticket_issued import TicketIssued
from .token_counts import TokenCounts
from .tool_call_entry import ToolCallEntry
from .tool_call_entry_arguments import ToolCallEntryArguments
from .tool_entry import ToolEntry
from .tool_entry_kind import ToolEntryKind
from .tool_entry_parameters import ToolEntryParameters
from .tool_list import ToolList
from .tool_registered import ToolRegistered
from .tool_removed import ToolRemoved
from .tracked_keys import TrackedKeys
from .usage_figures import UsageFigures

__all__ = (
    "AbortBody",
    "AbortTaken",
    "ActiveSessions",
    "ApprovalSettings",
    "ApproveBody",
    "ApproveBodyArgs",
    "Budget",
    "CallbackCall",
    "CallbackCallArgs",
    "CallbackError",
    "CallbackResult",
    "Capabilities",
    "CapabilitiesDurability",
    "CreateSessionBody",
    "CreateSessionBodyMetadata",
    "CreateSessionBodyProviderOpts",
    "DecisionTaken",
    "DecisionTakenAction",
    "ErrorBody",
    "ErrorDetail",
    "EventEntry",
    "EventEntryData",
    "EventPage",
    "Health",
    "KeyUsage",
    "Limits",
    "ListSessionsState",
    "MessageEntry",
    "MessageEntryRole",
    "MessageList",
    "PendingApproval",
    "PendingApprovalArgs",
    "PendingQuestion",
    "PromptAccepted",
    "PromptBody",
    "QueuedPrompt",
    "Readiness",
    "RegisterToolBody",
    "RegisterToolBodyParameters",
    "RejectBody",
    "RespondBody",
    "ResponseTaken",
    "SessionCreated",
    "SessionDeleted",
    "SessionInfo",
    "SessionInfoMetadata",
    "SessionInfoState",
    "SessionList",
    "SessionStats",
    "SessionSummary",
    "SessionSummaryMetadata",
    "SessionSummaryState",
    "TenantUsage",
    "TicketBody",
    "TicketBodyScope",
    "TicketIssued",
    "TokenCounts",
    "ToolCallEntry",
    "ToolCallEntryArguments",
    "ToolEntry",
    "ToolEntryKind",
    "ToolEntryParameters",
    "ToolList",
    "ToolRegistered",
    "ToolRemoved",
    "TrackedKeys",
    "UsageFigures",
)
