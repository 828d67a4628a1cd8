"""The message of an attempt: its body, its headers and its signature. Pure functions.

The body is ``{id, type, key, seq, occurred_at, data}``, thin without ``data``; it is the same in every attempt
unless it carries ``hook_generated_at``. The headers are those of Standard Webhooks (``webhook-id``,
``webhook-timestamp``, ``webhook-signature``) with the attempt, the key and the sequence number beside them; who
sends is the sender's to say.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
import secrets
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from urllib.parse import quote

import orjson
from standardwebhooks import Webhook

from loadtest.dispatcher.records import Endpoint, Waiting
from sim.errors import Problem, ScenarioError, nearest
from sim.policy import SECOND

FULL, THIN = "full", "thin"
STANDARD, HUB, NONE = "standard", "hub", "none"
SIGNATURES = (STANDARD, HUB, NONE)

SECRET_PREFIX = "whsec_"
SECRET_BYTES = (24, 64)
"""Least and most of a key, as Standard Webhooks has it."""
NEW_SECRET_BYTES = 32
PHRASE_CHARACTERS = (8, 256)
"""Least and most of a phrase for ``hub``."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PLAIN = "".join(map(chr, range(0x21, 0x7F))).replace("%", "")
"""What a header value carries as it is, wherever it stands in it."""
_ALL_PLAIN = re.compile(f"[{re.escape(_PLAIN)}]*")


def delivery_id(event_id: str, endpoint_id: str) -> str:
    """What identifies a delivery in all its attempts: ``webhook-id``."""
    return f"{event_id}:{endpoint_id}"


def rfc3339(time: int) -> str:
    """A time in ns since 1970 as RFC 3339 in UTC, to the microsecond (rounded down)."""
    return (_EPOCH + timedelta(microseconds=time // 1000)).isoformat(timespec="microseconds")[:-6] + "Z"


def body(waiting: Waiting, data: bytes, message: str, endpoint: Endpoint, now: int) -> bytes:
    """The JSON that is sent.

    Args:
        waiting: the delivery; a ``seq`` of -1 becomes null.
        data: JSON of the event's data, taken over byte for byte; unused in a thin message.
        message: ``full`` or ``thin``.
        endpoint: with ``hook_fields``, the body carries ``hook_guid`` (the delivery's id) and ``hook_generated_at``.
        now: time of the attempt, ns since 1970.
    """
    fields = {
        "id": waiting.event_id,
        "type": waiting.type,
        "key": waiting.key,
        "seq": None if waiting.seq < 0 else waiting.seq,
        "occurred_at": rfc3339(waiting.occurred),
    }
    if endpoint.hook_fields:
        fields["hook_guid"] = delivery_id(waiting.event_id, endpoint.id)
        fields["hook_generated_at"] = rfc3339(now)
    head = orjson.dumps(fields)
    if message == THIN:
        return head
    assert data, waiting
    return b'%b,"data":%b}' % (head[:-1], data)


def header_text(value: str) -> str:
    """A text as a header can carry it: what is no visible ASCII, and ``%``, is percent-encoded (as UTF-8).

    ``urllib.parse.unquote`` gives the text back. No value can end its line or begin another header.
    """
    return value if _ALL_PLAIN.fullmatch(value) else quote(value, safe=_PLAIN)


def headers(
    endpoint: Endpoint, delivery: str, attempt_number: int, key: str, seq: int, body: bytes, now: int
) -> list[str]:
    """``Name: value`` lines of an attempt, signed as its endpoint wants it.

    Args:
        endpoint: its secrets and the kind of its signature.
        delivery: the delivery's id.
        attempt_number: from 1.
        key: ordering key; without one there is no ``webhook-key``.
        seq: sequence number; -1: there is no ``webhook-seq``.
        body: what is signed.
        now: ns since 1970; the timestamp is its second, and the old secret signs too before ``old_secret_until``.
    """
    identity, timestamp = header_text(delivery), now // SECOND
    lines = [
        "content-type: application/json",
        f"webhook-id: {identity}",
        f"webhook-timestamp: {timestamp}",
        f"webhook-attempt: {attempt_number}",
    ]
    if key:
        lines.append(f"webhook-key: {header_text(key)}")
    if seq >= 0:
        lines.append(f"webhook-seq: {seq}")
    if endpoint.signature == STANDARD:
        lines.append(f"webhook-signature: {_signatures(endpoint, identity, timestamp, body, now)}")
    elif endpoint.signature == HUB:
        # one signature is all that X-Hub-Signature has room for, so the old phrase ends with its replacement
        lines.append(f"X-Hub-Signature: sha256={hmac.digest(endpoint.secret.encode(), body, 'sha256').hex()}")
    return lines


def _signatures(endpoint: Endpoint, identity: str, timestamp: int, body: bytes, now: int) -> str:
    moment, text = datetime.fromtimestamp(timestamp, UTC), body.decode()
    signature = _webhook(endpoint.secret).sign(identity, moment, text)
    if endpoint.old_secret and now < endpoint.old_secret_until:
        signature += f" {_webhook(endpoint.old_secret).sign(identity, moment, text)}"
    return signature


@lru_cache(maxsize=4096)
def _webhook(secret: str) -> Webhook:
    return Webhook(secret)


# --------------------------------------------------------------------------- secrets


def new_secret() -> str:
    """A fresh secret for the signature ``standard``; as a phrase it serves ``hub`` as well."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(NEW_SECRET_BYTES)).decode()


def check_secret(secret: str, signature: str) -> None:
    """Check that a secret can make a signature of this kind. Messages never show the secret.

    Raises:
        ScenarioError: with a ``Problem`` at ``signature`` or ``secret`` and the rule that is broken.
    """
    if signature not in SIGNATURES:
        rule = f"must be {', '.join(SIGNATURES[:-1])} or {SIGNATURES[-1]}{nearest(signature, SIGNATURES)}"
        raise ScenarioError([Problem("signature", signature, rule)])
    rules = {STANDARD: _standard_rule, HUB: _hub_rule}
    if signature in rules and (rule := rules[signature](secret)):
        raise ScenarioError([Problem("secret", None, rule)])


def _standard_rule(secret: str) -> str:
    """What a secret for ``standard`` breaks; empty: nothing."""
    least, most = SECRET_BYTES
    rule = f"must be {SECRET_PREFIX} and base64 of {least} to {most} bytes; leave it out to get a new one"
    encoded = secret.removeprefix(SECRET_PREFIX)
    if encoded == secret:
        return rule
    try:
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        return rule
    return "" if least <= len(key) <= most else f"{rule} (it has {len(key)} bytes)"


def _hub_rule(secret: str) -> str:
    """What a phrase for ``hub`` breaks; empty: nothing."""
    least, most = PHRASE_CHARACTERS
    fits = least <= len(secret) <= most and secret.isprintable()
    return "" if fits else f"must be a phrase of {least} to {most} printable characters for the signature hub"
