"""The key that private keys are sealed with on their way to the gateways: one Secret of the installation, made when it is not there.

The chart does not render it: an upgrade would make another one, and a rendered chart would hold it in clear.
"""

from __future__ import annotations

import base64
import logging
import secrets

from nexus_core.certificates.keys import KEY_BYTES
from nexus_core.certificates.sealing import SealError, parse_key

from nexus_operator.edge.kube import Conflict, KubeApi, KubeAway, KubeError, NotFound
from nexus_operator.world.inventory import Object
from nexus_operator.world.kinds import SECRET

log = logging.getLogger(__name__)
KEY = "key"
ATTEMPTS = 5


async def ensure_seal_key(kube: KubeApi, namespace: str, name: str) -> bytes:
    """Return the key in the Secret, which is made with a random one if it is not there. Raises KubeError.

    A Secret without a usable key is an error, not overwritten: what was sealed with another key could not be opened again.
    """
    for _ in range(ATTEMPTS):
        try:
            found = await kube.get(SECRET, namespace, name)
        except NotFound:
            found = None
        if found is not None:
            return _read(found, f"{namespace}/{name}")
        key = base64.b64encode(secrets.token_bytes(KEY_BYTES))
        labels = {"app.kubernetes.io/name": "nexus", "app.kubernetes.io/part-of": "nexus"}
        body = {
            "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": {"name": name, "namespace": namespace, "labels": labels},
            "data": {KEY: base64.b64encode(key).decode()},
        }  # fmt: skip
        try:
            made = await kube.create(SECRET, namespace, body)
        except Conflict:
            continue  # another replica was faster
        log.info("made the seal key, Secret %s/%s", namespace, name)
        return _read(made, f"{namespace}/{name}")
    raise KubeAway(f"Secret {namespace}/{name} is made and deleted again by somebody else.")


def _read(secret: Object, name: str) -> bytes:
    data = secret.get("data")
    text = (data.get(KEY) if isinstance(data, dict) else None) or ""  # an empty value may be a null
    try:
        return parse_key(base64.b64decode(text).decode())
    except (SealError, ValueError) as err:
        raise KubeError(f"Secret {name}: .data.{KEY} is no seal key. {err} Or delete it: a new one is made.") from err
