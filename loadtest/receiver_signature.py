"""Whether a request bears the signature of its endpoint's secret, as Standard Webhooks define it."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path

from standardwebhooks import Webhook, WebhookVerificationError

from sim.errors import Problem, ScenarioError, nearest

HEADERS = (b"webhook-id", b"webhook-timestamp", b"webhook-signature")


def is_right(verifier: Webhook, headers: Mapping[bytes, bytes], body: bytes) -> bool:
    """Whether a request is signed with the verifier's secret, not more than five minutes ago."""
    said = {name.decode("ascii"): headers.get(name, b"").decode("latin-1") for name in HEADERS}
    try:
        verifier.verify(body, said, json_parse=False)
    except (WebhookVerificationError, ValueError):  # the latter: a header or body of another form
        return False
    return True


def read_secrets(path: Path, endpoints: Collection[str]) -> dict[str, Webhook]:
    """Verifiers of a JSON file ``{endpoint id: secret}``.

    Raises:
        ScenarioError: it cannot be read, has another form, or names an endpoint that is none of ``endpoints``.
    """
    source = f"secrets {path}"
    try:
        secrets = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ScenarioError(f"{source} cannot be read: {error.strerror or error}") from None
    except ValueError:
        raise ScenarioError(f"{source} is not JSON; it must be an object of endpoint id: secret") from None
    if not isinstance(secrets, dict):
        raise ScenarioError(f"{source} must be a JSON object of endpoint id: secret")
    verifiers, problems = {}, []
    for name, secret in secrets.items():
        if name not in endpoints:
            problems.append(Problem(name, None, f"is no endpoint of this scenario{nearest(name, endpoints)}"))
            continue
        try:
            verifiers[name] = Webhook(secret)
        except Exception:  # the library lets errors of several kinds through
            problems.append(Problem(name, None, "must be a secret such as whsec_ and base64"))
    if problems:
        raise ScenarioError(problems, source)
    return verifiers
