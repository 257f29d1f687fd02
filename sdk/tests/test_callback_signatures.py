"""Verification of signatures in the format of Standard Webhooks."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import io
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from cmdc_client.callbacks import (
    CallbackCall,
    CallbackRejected,
    MalformedCall,
    NotSigned,
    StaleTimestamp,
    WrongSignature,
    new_secret,
    sign,
    verify_callback,
)
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

NOW = 1_795_348_669
SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OTHER = "whsec_" + base64.b64encode(bytes(32)).decode()
CALL = {"callId": "call_1", "toolName": "get_weather", "args": {"city": "Tromsø"}, "sessionId": "demo"}
BODY = json.dumps(CALL, ensure_ascii=False).encode()


def now() -> float:
    return NOW


def signed(body: bytes = BODY, *, call_id: str = "call_1", at: int = NOW, secret: str = SECRET) -> dict[str, str]:
    """Return the headers that the standardwebhooks library generates, which the gateway uses too."""
    signature = Webhook(secret).sign(call_id, datetime.fromtimestamp(at, UTC), body.decode())
    return {"webhook-id": call_id, "webhook-timestamp": str(at), "webhook-signature": signature}


def test_a_call_signed_by_standardwebhooks_is_verified() -> None:
    call = verify_callback(SECRET, signed(), BODY, now=now)

    assert call == CallbackCall("call_1", "get_weather", {"city": "Tromsø"}, "demo")


@given(args=st.dictionaries(st.text(), st.none() | st.integers() | st.text()), at=st.integers(0, 4_000_000_000))
def test_both_libraries_generate_the_same_signature(args: dict[str, Any], at: int) -> None:
    body = json.dumps({**CALL, "args": args}, ensure_ascii=False).encode()

    assert sign(SECRET, "call_1", at, body) == signed(body, at=at)
    assert verify_callback(SECRET, signed(body, at=at), body, now=lambda: at).args == args


def test_a_call_signed_here_is_verified_by_standardwebhooks() -> None:
    headers = sign(SECRET, "call_1", int(datetime.now(UTC).timestamp()), BODY)

    assert Webhook(SECRET).verify(BODY, headers) == CALL
    with pytest.raises(WebhookVerificationError):
        Webhook(OTHER).verify(BODY, headers)


def test_new_secrets_are_valid_and_differ() -> None:
    secrets = {new_secret() for _ in range(10)}

    assert len(secrets) == 10
    for secret in secrets:
        assert verify_callback(secret, signed(secret=secret), BODY, now=now).call_id == "call_1"


def _in_upper_case(headers: dict[str, str]) -> dict[str, str]:
    return {name.upper(): value for name, value in headers.items()}


def _parsed(headers: dict[str, str]) -> http.client.HTTPMessage:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return http.client.parse_headers(io.BytesIO(lines.encode() + b"\r\n"))


@pytest.mark.parametrize(
    "headers_of",
    [
        httpx.Headers,
        _in_upper_case,
        _parsed,
    ],
    ids=["httpx", "upper case", "http.server"],
)
def test_headers_of_any_framework_are_accepted(headers_of: Callable[[dict[str, str]], Any]) -> None:
    assert verify_callback(SECRET, headers_of(signed()), BODY, now=now).call_id == "call_1"


def test_one_valid_signature_among_several_is_enough() -> None:
    """While a secret is rotated, calls are signed with the old and the new one."""
    headers = signed()
    others = f"v1a,abc {signed(secret=OTHER)['webhook-signature']} v1, , {headers['webhook-signature']}"

    assert verify_callback(SECRET, {**headers, "webhook-signature": others}, BODY, now=now).call_id == "call_1"


@pytest.mark.parametrize("missing", ["webhook-id", "webhook-timestamp", "webhook-signature"])
@pytest.mark.parametrize("empty", [True, False])
def test_a_call_without_one_of_the_headers_is_not_signed(missing: str, *, empty: bool) -> None:
    headers = signed()
    if empty:
        headers[missing] = ""
    else:
        del headers[missing]

    with pytest.raises(NotSigned, match=f"the call is not signed: the header {missing} is missing"):
        verify_callback(SECRET, headers, BODY, now=now)


@pytest.mark.parametrize(
    "signature",
    [
        "v1,",
        "v1",
        ",",
        "v1,AAAA",
        signed(secret=OTHER)["webhook-signature"],
        signed(call_id="call_2")["webhook-signature"],
        signed(at=NOW + 1)["webhook-signature"],
        signed(BODY + b" ")["webhook-signature"],
        signed()["webhook-signature"].replace("v1,", "v2,"),
        signed()["webhook-signature"].rstrip("="),
        signed()["webhook-signature"].lower(),
        signed()["webhook-signature"] + ",",
        "v1,ä",
        "v1,\udc80",
    ],
)
def test_a_wrong_signature_is_rejected_without_revealing_the_right_one(signature: str) -> None:
    with pytest.raises(WrongSignature) as rejected:
        verify_callback(SECRET, {**signed(), "webhook-signature": signature}, BODY, now=now)

    assert signed()["webhook-signature"] not in str(rejected.value)
    assert SECRET.removeprefix("whsec_") not in str(rejected.value)


@given(at=st.integers(0, len(BODY) - 1), bit=st.integers(0, 7))
def test_a_body_with_one_flipped_bit_is_rejected(at: int, bit: int) -> None:
    body = bytearray(BODY)
    body[at] ^= 1 << bit

    with pytest.raises(WrongSignature):
        verify_callback(SECRET, signed(), bytes(body), now=now)


@pytest.mark.parametrize("age", [-300, -1, 0, 299, 300])
def test_clocks_may_differ_by_five_minutes(age: int) -> None:
    assert verify_callback(SECRET, signed(at=NOW - age), BODY, now=now).call_id == "call_1"


@pytest.mark.parametrize(
    ("age", "message"), [(301, "signed 301 seconds ago"), (-301, "signed 301 seconds in the future")]
)
def test_a_timestamp_outside_the_tolerance_is_stale(age: int, message: str) -> None:
    with pytest.raises(StaleTimestamp, match=message):
        verify_callback(SECRET, signed(at=NOW - age), BODY, now=now)


def test_the_tolerance_is_configurable() -> None:
    with pytest.raises(StaleTimestamp, match="more than the tolerance of 10"):
        verify_callback(SECRET, signed(at=NOW - 11), BODY, now=now, tolerance_seconds=10)


@pytest.mark.parametrize("timestamp", ["soon", "1e9", "1795348669.0", "+1795348669", "²", "9" * 13, "nan"])
def test_a_timestamp_must_be_an_integer(timestamp: str) -> None:
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    digest = hmac.digest(key, f"call_1.{timestamp}.".encode() + BODY, hashlib.sha256)
    signature = "v1," + base64.b64encode(digest).decode()
    headers = {"webhook-id": "call_1", "webhook-timestamp": timestamp, "webhook-signature": signature}

    with pytest.raises(StaleTimestamp, match="must be an integer"):
        verify_callback(SECRET, headers, BODY, now=now)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b'{"callId": NaN}',
        b"[" * 100_000,
        *(json.dumps({name: value for name, value in CALL.items() if name != omitted}).encode() for omitted in CALL),
        json.dumps({**CALL, "args": []}).encode(),
        json.dumps({**CALL, "callId": 1}).encode(),
    ],
    ids=lambda body: str(body[:100]),
)
def test_a_signed_body_that_is_not_a_call_is_malformed(body: bytes) -> None:
    headers = sign(SECRET, "call_1", NOW, body)

    with pytest.raises(MalformedCall, match="the body"):
        verify_callback(SECRET, headers, body, now=now)


def test_the_ids_in_the_header_and_in_the_body_must_match() -> None:
    with pytest.raises(MalformedCall, match="the webhook-id differs from the callId 'call_1' in the body"):
        verify_callback(SECRET, signed(call_id="call_2"), BODY, now=now)


def test_all_rejections_have_one_base_class() -> None:
    assert {error.__base__ for error in (NotSigned, WrongSignature, StaleTimestamp, MalformedCall)} == {
        CallbackRejected
    }


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "whsec_",
        "whsec_!",
        "whsec_ä",
        SECRET.removeprefix("whsec_"),
        "whsec_" + base64.b64encode(bytes(23)).decode(),
        "whsec_" + base64.b64encode(bytes(65)).decode(),
    ],
)
def test_an_invalid_secret_is_rejected_without_being_repeated(secret: str) -> None:
    with pytest.raises(
        ValueError, match="a secret must be whsec_ followed by the base64 encoding of 24 to 64 bytes"
    ) as error:
        verify_callback(secret, signed(), BODY, now=now)

    assert len(secret) < 10 or secret not in str(error.value)
