"""Every exception that the client raises.

    CmdcError
    ├── ApiError            the server returned an error; one subclass per error code
    ├── ProtocolError       the server violates the protocol
    ├── ConnectionFailed    the server is unreachable, or the connection was lost
    │   ├── CannotResume
    │   └── SocketClosed
    └── RunAborted          a run ended without a reply

`CallbackRejected`, which is also a `CmdcError`, is defined in `cmdc_client.signatures`.
"""

from cmdc_client._generated.api_errors import (
    ERRORS_BY_CODE,
    AlreadyResolved,
    BadRequest,
    BudgetExceeded,
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
    QueueFull,
    RateLimited,
    RegistrationFailed,
    RequestTimeout,
    SessionDead,
    SessionExists,
    Unauthorized,
    Unavailable,
    UnsupportedMediaType,
    UpgradeRequired,
    UriTooLong,
)
from cmdc_client.base_errors import (
    ApiError,
    CannotResume,
    CmdcError,
    ConnectionFailed,
    ErrorDetail,
    ErrorResponse,
    ProtocolError,
    SocketClosed,
)
from cmdc_client.transcript import RunAborted

__all__ = [
    "ERRORS_BY_CODE",
    "AlreadyResolved",
    "ApiError",
    "BadRequest",
    "BudgetExceeded",
    "CannotResume",
    "CmdcError",
    "ConnectionFailed",
    "CreateFailed",
    "CursorExpired",
    "DigestMismatch",
    "ErrorDetail",
    "ErrorResponse",
    "Forbidden",
    "HeadersTooLarge",
    "IdempotencyInProgress",
    "IdempotencyMismatch",
    "Internal",
    "InvalidCursor",
    "MethodNotAllowed",
    "NotFound",
    "PayloadTooLarge",
    "ProtocolError",
    "QueueFull",
    "RateLimited",
    "RegistrationFailed",
    "RequestTimeout",
    "RunAborted",
    "SessionDead",
    "SessionExists",
    "SocketClosed",
    "Unauthorized",
    "Unavailable",
    "UnsupportedMediaType",
    "UpgradeRequired",
    "UriTooLong",
]
