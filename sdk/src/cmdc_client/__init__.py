"""The Python client of the CMDC Gateway protocol.

    from cmdc_client import Client, MessageDelta

    with Client("http://127.0.0.1:4000", api_key="…") as client:
        session = client.sessions.create(model="scripted:demo")
        for event in session.run("Hello!"):
            match event:
                case MessageDelta(delta=text):
                    print(text, end="")
                case _:
                    pass

`AsyncClient` has the same methods, as coroutines. The package does not import the server; its models, events and errors
are generated from the published JSON schemas. `cmdc_client.callbacks`, which serves tools, needs the extra
`cmdc-client[callbacks]`.
"""

from cmdc_client._async.client import AsyncClient
from cmdc_client._async.live_events import AsyncLiveApproval, AsyncLiveEvent, AsyncLiveQuestion
from cmdc_client._async.session import AsyncSession
from cmdc_client._async.socket import AsyncSocket
from cmdc_client._async.stream import AsyncEvents, AsyncRun
from cmdc_client._sync.client import Client
from cmdc_client._sync.live_events import LiveApproval, LiveEvent, LiveQuestion
from cmdc_client._sync.session import Session
from cmdc_client._sync.socket import Socket
from cmdc_client._sync.stream import Events, Run
from cmdc_client.cursor import Cursor
from cmdc_client.errors import (
    AlreadyResolved,
    ApiError,
    BadRequest,
    BudgetExceeded,
    CannotResume,
    CmdcError,
    ConnectionFailed,
    CreateFailed,
    CursorExpired,
    DigestMismatch,
    Forbidden,
    HeadersTooLarge,
    IdempotencyInProgress,
    IdempotencyMismatch,
    Internal,
    InvalidCursor,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    ProtocolError,
    QueueFull,
    RateLimited,
    RegistrationFailed,
    RequestTimeout,
    RunAborted,
    SessionDead,
    SessionExists,
    SocketClosed,
    Unauthorized,
    Unavailable,
    UnsupportedMediaType,
    UpgradeRequired,
    UriTooLong,
)
from cmdc_client.events import (
    AgentAbort,
    AgentEnd,
    AgentStart,
    ApprovalRequired,
    ApprovalResolved,
    AskUser,
    Event,
    LastMessage,
    MessageDelta,
    MessageStart,
    PromptReceived,
    RunError,
    ThinkingDelta,
    ThinkingStart,
    TokenUsage,
    ToolCalls,
    ToolExecutionEnd,
    ToolExecutionStart,
    UnknownEvent,
    is_terminal,
)
from cmdc_client.history import LogEntry, LogPage
from cmdc_client.models import ApprovalSettings, Budget
from cmdc_client.policies import Answerer, AsyncAnswerer, AsyncPolicy, Policy
from cmdc_client.signatures import CallbackCall, CallbackRejected, verify_callback
from cmdc_client.transcript import Reply, ToolCall, Transcript

__version__ = "0.1.0"

__all__ = [
    "AgentAbort",
    "AgentEnd",
    "AgentStart",
    "AlreadyResolved",
    "Answerer",
    "ApiError",
    "ApprovalRequired",
    "ApprovalResolved",
    "ApprovalSettings",
    "AskUser",
    "AsyncAnswerer",
    "AsyncClient",
    "AsyncEvents",
    "AsyncLiveApproval",
    "AsyncLiveEvent",
    "AsyncLiveQuestion",
    "AsyncPolicy",
    "AsyncRun",
    "AsyncSession",
    "AsyncSocket",
    "BadRequest",
    "Budget",
    "BudgetExceeded",
    "CallbackCall",
    "CallbackRejected",
    "CannotResume",
    "Client",
    "CmdcError",
    "ConnectionFailed",
    "CreateFailed",
    "Cursor",
    "CursorExpired",
    "DigestMismatch",
    "Event",
    "Events",
    "Forbidden",
    "HeadersTooLarge",
    "IdempotencyInProgress",
    "IdempotencyMismatch",
    "Internal",
    "InvalidCursor",
    "LastMessage",
    "LiveApproval",
    "LiveEvent",
    "LiveQuestion",
    "LogEntry",
    "LogPage",
    "MessageDelta",
    "MessageStart",
    "MethodNotAllowed",
    "NotFound",
    "PayloadTooLarge",
    "Policy",
    "PromptReceived",
    "ProtocolError",
    "QueueFull",
    "RateLimited",
    "RegistrationFailed",
    "Reply",
    "RequestTimeout",
    "Run",
    "RunAborted",
    "RunError",
    "Session",
    "SessionDead",
    "SessionExists",
    "Socket",
    "SocketClosed",
    "ThinkingDelta",
    "ThinkingStart",
    "TokenUsage",
    "ToolCall",
    "ToolCalls",
    "ToolExecutionEnd",
    "ToolExecutionStart",
    "Transcript",
    "Unauthorized",
    "Unavailable",
    "UnknownEvent",
    "UnsupportedMediaType",
    "UpgradeRequired",
    "UriTooLong",
    "__version__",
    "is_terminal",
    "verify_callback",
]
