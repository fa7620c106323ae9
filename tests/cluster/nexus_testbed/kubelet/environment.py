"""Environment variables of a container: values, references to fields, ConfigMaps and Secrets, and `$(NAME)` expansion.

Source: https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/#environment-variables
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence

from nexus_testbed import places
from nexus_testbed.api import Api, ApiError, Object

_REFERENCE = re.compile(r"\$(\$|\(([-._a-zA-Z][-._a-zA-Z0-9]*)\))")
_QUANTITY = re.compile(r"([0-9.]+)([a-zA-Z]*)")
_FACTORS = {
    "": 1.0,
    "m": 0.001,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "Ki": 2.0**10,
    "Mi": 2.0**20,
    "Gi": 2.0**30,
    "Ti": 2.0**40,
}

STANDARD = {
    "KUBERNETES_SERVICE_HOST": places.API_IP,
    "KUBERNETES_SERVICE_PORT": "443",
    "KUBERNETES_SERVICE_PORT_HTTPS": "443",
    "KUBERNETES_PORT": f"tcp://{places.API_IP}:443",
}
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class ConfigError(Exception):
    """The container cannot be configured yet: something it refers to is missing (the reason shows in its status)."""


def expand(text: str, env: Mapping[str, str]) -> str:
    """Replace `$(NAME)` by the variable; `$$` is a literal `$`, an unknown name stays as written."""

    def replace(match: re.Match[str]) -> str:
        if match[1] == "$":
            return "$"
        return env.get(match[2], match[0])

    return _REFERENCE.sub(replace, text)


def read_field(pod: Object, path: str, pod_ip: str) -> str:
    """Return a downward API field as text, e.g. `metadata.labels['app']`. Raises ConfigError for one that is unknown."""
    meta, spec = pod["metadata"], pod["spec"]
    simple = {
        "metadata.name": meta["name"],
        "metadata.namespace": meta["namespace"],
        "metadata.uid": meta["uid"],
        "spec.nodeName": spec.get("nodeName", ""),
        "spec.serviceAccountName": spec.get("serviceAccountName", "default"),
        "status.hostIP": places.NODE_IP,
        "status.hostIPs": places.NODE_IP,
        "status.podIP": pod_ip,
        "status.podIPs": pod_ip,
    }
    if path in simple:
        return str(simple[path])
    for kind in ("labels", "annotations"):
        values: Mapping[str, str] = meta.get(kind) or {}
        if path == f"metadata.{kind}":
            return "\n".join(f'{key}="{value}"' for key, value in sorted(values.items()))
        if match := re.fullmatch(rf"metadata\.{kind}\['(.+)'\]", path):
            return values.get(match[1], "")
    raise ConfigError(f"fieldPath {path!r} is not a downward API field this kubelet knows")


def read_resource(container: Object, reference: Object) -> str:
    """Return a container's resource limit or request in units of its divisor, rounded up; the node's if there is none."""
    side, _, name = str(reference["resource"]).partition(".")
    resources = container.get("resources") or {}
    node = {"cpu": "16", "memory": "64Gi"}.get(name, "0")
    text = (resources.get(side) or {}).get(name) or node
    value, divisor = _quantity(text), _quantity(str(reference.get("divisor") or "1")) or 1.0
    return str(int(-(-value // divisor)))


def _quantity(text: str) -> float:
    match = _QUANTITY.fullmatch(text)
    if match is None or match[2] not in _FACTORS:
        raise ConfigError(f"{text!r} is not a quantity")
    return float(match[1]) * _FACTORS[match[2]]


async def _data(api: Api, namespace: str, plural: str, name: str) -> dict[str, str] | None:
    try:
        found = await api.request("GET", f"/api/v1/namespaces/{namespace}/{plural}/{name}")
    except ApiError as err:
        if err.status in (403, 404):  # 403: the node authorizer does not know the new pod yet
            return None
        raise
    data: dict[str, str] = found.get("data") or {}
    if plural == "secrets":
        return {key: base64.b64decode(value).decode(errors="replace") for key, value in data.items()}
    return data


async def build(api: Api, pod: Object, container: Object, pod_ip: str, image_env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a container. Raises ConfigError if a required ConfigMap, Secret or key is missing."""
    namespace = pod["metadata"]["namespace"]
    cache: dict[tuple[str, str], dict[str, str] | None] = {}

    async def read(plural: str, reference: Object) -> dict[str, str] | None:
        key = (plural, reference["name"])
        if key not in cache:
            cache[key] = await _data(api, namespace, *key)
        if cache[key] is None and not reference.get("optional"):
            raise ConfigError(f'{plural.removesuffix("s")} "{reference["name"]}" not found')
        return cache[key]

    env = {
        "PATH": DEFAULT_PATH,
        # Container runtimes set it for every user, also for one without an entry in /etc/passwd.
        "HOME": "/",
        **image_env,
        **STANDARD,
        "HOSTNAME": pod["spec"].get("hostname") or pod["metadata"]["name"],
    }
    for source in container.get("envFrom") or ():
        for plural, field in (("configmaps", "configMapRef"), ("secrets", "secretRef")):
            if field in source:
                data = await read(plural, source[field])
                env.update({source.get("prefix", "") + key: value for key, value in (data or {}).items()})
    for variable in container.get("env") or ():
        name, source = variable["name"], variable.get("valueFrom")
        if not source:
            env[name] = expand(variable.get("value", ""), env)
        elif "fieldRef" in source:
            env[name] = read_field(pod, source["fieldRef"]["fieldPath"], pod_ip)
        elif "resourceFieldRef" in source:
            env[name] = read_resource(container, source["resourceFieldRef"])
        else:
            plural, field = (
                ("configmaps", "configMapKeyRef") if "configMapKeyRef" in source else ("secrets", "secretKeyRef")
            )
            if field not in source:
                raise ConfigError(f"env {name}: {', '.join(source)} is not a source this kubelet knows")
            reference = source[field]
            data = await read(plural, reference)
            if data is not None and reference["key"] in data:
                env[name] = data[reference["key"]]
            elif not reference.get("optional"):
                raise ConfigError(
                    f"couldn't find key {reference['key']} in {plural.removesuffix('s')} {namespace}/{reference['name']}"
                )
    return env


def command_of(container: Object, entrypoint: Sequence[str], env: Mapping[str, str]) -> list[str]:
    """Return the argv of a container: `command` replaces the image's entrypoint, `args` are appended."""
    argv = [*(container.get("command") or entrypoint), *(container.get("args") or ())]
    return [expand(part, env) for part in argv]
