"""What an attempt's message says, and how it is signed."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from datetime import UTC, datetime, timedelta
from urllib.parse import unquote

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from loadtest.dispatcher import message
from loadtest.dispatcher.records import Endpoint, Waiting
from sim.errors import ScenarioError
from sim.policy import SECOND

SECRET, OLD_SECRET = message.new_secret(), message.new_secret()
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)


def endpoint(**changes: object) -> Endpoint:
    """An endpoint that signs with ``SECRET`` unless told otherwise."""
    given = {"id": "shop:0", "url": "https://a.example/", "types": ("*",), "policy": "{}", "secret": SECRET}
    return Endpoint(**{**given, "created": 0, "changed": 0, **changes})  # type: ignore[arg-type]


def waiting(**changes: object) -> Waiting:
    """A delivery that waits for its first attempt."""
    given = dict.fromkeys(Waiting._fields, 0) | {
        "event_id": "till:7",
        "type": "order.paid",
        "key": "order-1",
        "seq": 3,
        "occurred": 1_700_000_000_123_456_789,
        "data": b"{}",
        "object_type": "",
        "object_id": "",
    }
    return Waiting(**given | changes)  # type: ignore[arg-type]


def fields(lines: list[str]) -> dict[str, str]:
    """Header lines as a mapping of lower-case names; no name comes twice and no line holds another."""
    assert all(line.isascii() and line.isprintable() for line in lines)
    pairs = [line.split(": ", 1) for line in lines]
    mapping = {name.lower(): value for name, value in pairs}
    assert len(mapping) == len(pairs)
    assert all(mapping.values())  # libcurl would leave out a header without a value
    return mapping


def signed(to: Endpoint, body: bytes, now: int, **changes: object) -> dict[str, str]:
    """The headers of a first attempt."""
    given = {"delivery": "till:7:shop:0", "attempt_number": 1, "key": "k", "seq": 3} | changes
    return fields(message.headers(to, body=body, now=now, **given))  # type: ignore[arg-type]


def test_a_full_message_holds_the_event_and_its_data() -> None:
    """The body has the contract's fields and no other."""
    body = message.body(waiting(), b'{"total":12.50}', message.FULL, endpoint(), 0)
    assert json.loads(body) == {
        "id": "till:7",
        "type": "order.paid",
        "key": "order-1",
        "seq": 3,
        "occurred_at": "2023-11-14T22:13:20.123456Z",
        "data": {"total": 12.5},
    }


def test_a_thin_message_holds_no_data() -> None:
    """The receiver of a thin message asks for the object itself."""
    body = json.loads(message.body(waiting(seq=-1), b"", message.THIN, endpoint(), 0))
    assert set(body) == {"id", "type", "key", "seq", "occurred_at"}
    assert body["seq"] is None


def test_hook_fields_name_the_delivery_and_the_moment() -> None:
    """An endpoint that wants them finds the delivery's id and the time of the attempt in the body."""
    body = message.body(waiting(), b"1", message.FULL, endpoint(hook_fields=True), 1_700_000_001 * SECOND)
    found = json.loads(body)
    assert found["hook_guid"] == "till:7:shop:0" == message.delivery_id("till:7", "shop:0")
    assert found["hook_generated_at"] == "2023-11-14T22:13:21.000000Z"
    assert found["data"] == 1


@given(data=VALUES, key=WORDS, event=WORDS, kind=WORDS, seq=st.integers(-1, 2**53))
def test_every_body_is_json_and_its_data_is_taken_over_byte_for_byte(
    data: object, key: str, event: str, kind: str, seq: int
) -> None:
    """Texts are escaped, and the data that was posted is sent as it was, spaces and digits included."""
    raw = json.dumps(data, indent=1).encode()
    body = message.body(
        waiting(event_id=event, key=key, type=kind, seq=seq), raw, message.FULL, endpoint(), 0
    )
    found = orjson.loads(body)
    assert (found["id"], found["key"], found["type"]) == (event, key, kind)
    assert found["seq"] == (None if seq < 0 else seq)
    assert found["data"] == orjson.loads(raw)
    assert raw in body


@given(time=st.integers(-(2**62), 2**62))
def test_times_are_rfc_3339_to_the_microsecond(time: int) -> None:
    """What is written is the time, rounded down to the microsecond, in UTC."""
    text = message.rfc3339(time)
    assert text.endswith("Z")
    since = datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=UTC)
    assert since // timedelta(microseconds=1) == time // 1000


@given(data=VALUES, key=WORDS, delivery=WORDS.filter(bool))
def test_the_library_of_standard_webhooks_verifies_what_was_signed(
    data: object, key: str, delivery: str
) -> None:
    """A receiver with the published library, the body and the headers needs nothing else."""
    body = message.body(waiting(key=key), json.dumps(data).encode(), message.FULL, endpoint(), 0)
    headers = signed(endpoint(), body, time.time_ns(), key=key, delivery=delivery)
    assert Webhook(SECRET).verify(body, headers) == orjson.loads(body)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(body + b" ", headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(body, headers | {"webhook-id": "another"})
    with pytest.raises(WebhookVerificationError):
        Webhook(OLD_SECRET).verify(body, headers)


def test_both_secrets_sign_until_the_old_one_ends() -> None:
    """After a rotation receivers with the old secret verify until its end, those with the new one always."""
    now = time.time_ns()
    during = signed(endpoint(old_secret=OLD_SECRET, old_secret_until=now + 1), b"{}", now)
    after = signed(endpoint(old_secret=OLD_SECRET, old_secret_until=now), b"{}", now)
    assert [len(headers["webhook-signature"].split(" ")) for headers in (during, after)] == [2, 1]
    for headers in (during, after):
        assert Webhook(SECRET).verify("{}", headers) == {}
    assert Webhook(OLD_SECRET).verify("{}", during) == {}
    with pytest.raises(WebhookVerificationError):
        Webhook(OLD_SECRET).verify("{}", after)


def test_the_signature_hub_is_an_hmac_of_the_body() -> None:
    """``X-Hub-Signature`` is the one that receivers of WebSub compute, and no other signature stands beside it."""
    headers = signed(endpoint(signature=message.HUB, secret="größer als nötig"), b'{"a":1}', 0)
    expected = hmac.new("größer als nötig".encode(), b'{"a":1}', hashlib.sha256).hexdigest()
    assert headers["x-hub-signature"] == f"sha256={expected}"
    assert "webhook-signature" not in headers


def test_an_endpoint_may_go_without_a_signature() -> None:
    """With ``none`` no header speaks of a signature."""
    headers = signed(endpoint(signature=message.NONE, secret=""), b"{}", 0)
    assert not [name for name in headers if "signature" in name]


def test_headers_carry_the_attempt_and_the_place_in_the_order() -> None:
    """Every field of the contract has its header."""
    headers = signed(endpoint(), b"{}", 1_700_000_000_999_999_999, attempt_number=12, key="order-1", seq=0)
    del headers["webhook-signature"]
    assert headers == {
        "content-type": "application/json",
        "webhook-id": "till:7:shop:0",
        "webhook-timestamp": "1700000000",
        "webhook-attempt": "12",
        "webhook-key": "order-1",
        "webhook-seq": "0",
    }


def test_no_key_and_no_sequence_number_have_no_header() -> None:
    """What an event does not have is left out rather than empty."""
    assert not {"webhook-key", "webhook-seq"} & set(signed(endpoint(), b"{}", 0, key="", seq=-1))


@given(key=st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\r\n\0:% "), min_size=1))
def test_no_key_can_break_out_of_its_header(key: str) -> None:
    """Any text makes one line of visible ASCII, from which it can be read back."""
    assert unquote(signed(endpoint(), b"{}", 0, key=key)["webhook-key"]) == key
    assert message.header_text(key).isascii()
    assert not set(message.header_text(key)) & set("\r\n\0 ")


def test_new_secrets_differ_and_are_good() -> None:
    """A fresh secret passes its own check for both kinds of signature."""
    found = {message.new_secret() for _ in range(100)}
    assert len(found) == 100
    for secret in found:
        message.check_secret(secret, message.STANDARD)
        message.check_secret(secret, message.HUB)
        message.check_secret(secret.rstrip("="), message.STANDARD)  # padding may be left out


@pytest.mark.parametrize(
    ("secret", "signature", "rule"),
    [
        ("", "standard", "must be whsec_"),
        ("just a phrase", "standard", "must be whsec_"),
        ("whsec_", "standard", "it has 0 bytes"),
        ("whsec_AAAA", "standard", "it has 3 bytes"),
        ("whsec_" + "A" * 200, "standard", "it has 150 bytes"),
        (f"whsec_{'A' * 31}!", "standard", "base64"),
        (f"whsec_{'A' * 31}\n", "standard", "base64"),
        (f"whsec_{'ä' * 32}", "standard", "base64"),
        (f"whsec_{'A' * 33}", "standard", "base64"),  # no base64 has that length
        ("short", "hub", "8 to 256"),
        ("x" * 257, "hub", "8 to 256"),
        ("with a\nline end", "hub", "printable"),
    ],
)
def test_a_secret_that_cannot_sign_is_told_without_being_shown(
    secret: str, signature: str, rule: str
) -> None:
    """The message names the rule and never repeats what was meant to be secret."""
    with pytest.raises(ScenarioError) as caught:
        message.check_secret(secret, signature)
    assert str(caught.value).startswith("secret must be")
    assert rule in str(caught.value)
    assert not secret.removeprefix("whsec_") or secret not in str(caught.value)


def test_an_unknown_signature_is_told_with_the_nearest_one() -> None:
    """A misspelled kind of signature gets the list and a suggestion."""
    with pytest.raises(
        ScenarioError, match=r"signature is standart; must be standard, hub or none; did you mean standard\?"
    ):
        message.check_secret(SECRET, "standart")


def test_no_signature_needs_no_secret() -> None:
    """With ``none`` any secret, and none at all, will do."""
    message.check_secret("", message.NONE)
    assert "webhook-id" in signed(endpoint(signature=message.NONE, secret=""), b"{}", 0)
