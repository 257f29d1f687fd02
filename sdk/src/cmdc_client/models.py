"""The bodies of requests and answers, as the generator made them from the published schema.

A field that may be absent is `Unset` then, which is false in a condition.
"""

from cmdc_client._generated.models import (
    AbortBody,
    AbortTaken,
    ApprovalSettings,
    ApproveBody,
    Budget,
    Capabilities,
    CreateSessionBody,
    DecisionTaken,
    EventPage,
    Health,
    MessageEntry,
    MessageList,
    PromptAccepted,
    PromptBody,
    RegisterToolBody,
    RejectBody,
    RespondBody,
    ResponseTaken,
    SessionCreated,
    SessionDeleted,
    SessionInfo,
    SessionList,
    SessionStats,
    SessionSummary,
    TenantUsage,
    TicketBody,
    TicketIssued,
    ToolEntry,
    ToolList,
    ToolRegistered,
    ToolRemoved,
)
from cmdc_client._generated.models import SessionSummaryState as SessionState
