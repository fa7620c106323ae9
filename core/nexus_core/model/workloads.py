"""The part of a NexusService that says what runs: a container on Kubernetes, a process under `nexus up`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StrictInt, StrictStr

from nexus_core.model.base import LABEL_PATTERN, NAME_PATTERN, Model
from nexus_core.model.rules import Rule

Port = Annotated[int, Field(ge=1, le=65535)]
Argument = Annotated[str, Field(max_length=4096)]
EnvName = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[A-Za-z_][A-Za-z0-9_.-]*$")]
Quantity = StrictInt | Annotated[StrictStr, Field(max_length=32)]


class KeyRef(Model):
    """One key of a Secret or ConfigMap."""

    name: str = Field(min_length=1, max_length=253, pattern=NAME_PATTERN, description="Name of the object.")
    key: str = Field(min_length=1, max_length=253, description="Key inside it.")
    optional: bool | None = Field(default=None, description="True: start without the variable when it is missing.")


class FieldRef(Model):
    """A field of the pod."""

    field_path: str = Field(min_length=1, max_length=253, description="For example status.podIP or metadata.name.")


class EnvSource(Model):
    """Where a variable's value comes from."""

    secret_key_ref: KeyRef | None = Field(default=None, description="A key of a Secret in the same namespace.")
    config_map_key_ref: KeyRef | None = Field(default=None, description="A key of a ConfigMap in the same namespace.")
    field_ref: FieldRef | None = Field(default=None, description="A field of the pod.")

    cel_rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="[has(self.secretKeyRef), has(self.configMapKeyRef), has(self.fieldRef)].filter(x, x).size() == 1",
            what="A variable takes its value from one place.",
            fix="Set just one of secretKeyRef, configMapKeyRef, fieldRef.",
            holds=lambda s: [s.secret_key_ref, s.config_map_key_ref, s.field_ref].count(None) == 2,
        ),
    )


class EnvVar(Model):
    """One environment variable."""

    name: EnvName = Field(description="Name of the variable.")
    value: str | None = Field(default=None, max_length=32768, description="Its value.")
    value_from: EnvSource | None = Field(default=None, description="Where its value comes from, instead of value.")

    cel_rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!(has(self.value) && has(self.valueFrom))",
            what="A variable has either value or valueFrom.",
            fix="Remove one of the two.",
            holds=lambda s: s.value is None or s.value_from is None,
        ),
    )


class Resources(Model):
    """CPU and memory, as Kubernetes quantities."""

    requests: dict[Annotated[str, Field(max_length=63)], Quantity] = Field(
        default={}, max_length=16, description="What a replica is guaranteed, for example cpu: 100m, memory: 128Mi."
    )
    limits: dict[Annotated[str, Field(max_length=63)], Quantity] = Field(
        default={}, max_length=16, description="What a replica may use at most."
    )


class Probe(Model):
    """An HTTP GET that has to answer 200 to 399."""

    path: str = Field(min_length=1, max_length=1024, description="Path of the request.")
    port: Port | None = Field(default=None, description="Port of the request. Default: the workload's port.")
    initial_delay_seconds: int | None = Field(
        default=None, ge=0, le=86400, description="Seconds after the start before the first probe."
    )
    period_seconds: int | None = Field(default=None, ge=1, le=86400, description="Seconds between two probes.")
    timeout_seconds: int | None = Field(default=None, ge=1, le=3600, description="Seconds one probe may take.")
    success_threshold: int | None = Field(
        default=None, ge=1, le=100, description="Good probes in a row after which the replica counts as well again."
    )
    failure_threshold: int | None = Field(
        default=None, ge=1, le=10000, description="Failed probes in a row after which it counts as broken."
    )


class Probes(Model):
    """How Kubernetes learns whether a replica runs and takes requests."""

    readiness: Probe | None = Field(
        default=None, description="While it fails, the replica gets no requests. Default: GET /readyz."
    )
    liveness: Probe | None = Field(default=None, description="When it fails, the replica is restarted.")
    startup: Probe | None = Field(default=None, description="Until it succeeds, the other probes wait.")


class EmptyDir(Model):
    """A directory that lives as long as the pod."""

    medium: Literal["", "Memory"] | None = Field(default=None, description="Memory for a RAM disk.")
    size_limit: Quantity | None = Field(default=None, description="How much it may hold, for example 1Gi.")


class ClaimRef(Model):
    """A PersistentVolumeClaim of the same namespace."""

    claim_name: str = Field(min_length=1, max_length=253, pattern=NAME_PATTERN, description="Name of the claim.")
    read_only: bool | None = Field(default=None, description="True mounts it read-only.")


class ConfigMapRef(Model):
    """A ConfigMap of the same namespace, its keys as files."""

    name: str = Field(min_length=1, max_length=253, pattern=NAME_PATTERN, description="Name of the ConfigMap.")


class SecretRef(Model):
    """A Secret of the same namespace, its keys as files."""

    secret_name: str = Field(min_length=1, max_length=253, pattern=NAME_PATTERN, description="Name of the Secret.")


class Volume(Model):
    """A directory of the container. One named `data` becomes NEXUS_DATA_DIR of the platform's own services."""

    name: str = Field(min_length=1, max_length=63, pattern=LABEL_PATTERN, description="Name of the volume.")
    mount_path: str = Field(min_length=1, max_length=1024, description="Where the container sees it.")
    empty_dir: EmptyDir | None = Field(default=None, description="A directory that lives as long as the pod.")
    persistent_volume_claim: ClaimRef | None = Field(default=None, description="A PersistentVolumeClaim.")
    config_map: ConfigMapRef | None = Field(default=None, description="A ConfigMap, its keys as files.")
    secret: SecretRef | None = Field(default=None, description="A Secret, its keys as files.")

    cel_rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="[has(self.emptyDir), has(self.persistentVolumeClaim), has(self.configMap), has(self.secret)]"
            ".filter(x, x).size() == 1",
            what="A volume comes from one place.",
            fix="Set just one of emptyDir, persistentVolumeClaim, configMap, secret.",
            holds=lambda s: [s.empty_dir, s.persistent_volume_claim, s.config_map, s.secret].count(None) == 3,
        ),
        Rule(
            cel="self.mountPath.startsWith('/')",
            what="mountPath is not absolute.",
            fix="Begin it with '/'.",
            holds=lambda s: s.mount_path.startswith("/"),
            field=".mountPath",
        ),
    )


class Workload(Model):
    """What Nexus runs on Kubernetes: a Deployment and a Service of the same name."""

    image: str = Field(min_length=1, max_length=1024, description="Container image, for example shop/orders:1.2.")
    command: tuple[Argument, ...] | None = Field(
        default=None, max_length=64, description="Command in place of the image's entry point."
    )
    args: tuple[Argument, ...] | None = Field(default=None, max_length=64, description="Arguments of the command.")
    replicas: int = Field(default=1, ge=0, le=1000, description="How many replicas run.")
    port: Port = Field(default=8000, description="Port the container listens on; it is told by PORT.")
    env: tuple[EnvVar, ...] = Field(
        default=(),
        max_length=128,
        description="Environment variables. They win over the ones Nexus sets.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    resources: Resources | None = Field(default=None, description="CPU and memory.")
    probes: Probes | None = Field(default=None, description="How Kubernetes learns whether a replica is well.")
    volumes: tuple[Volume, ...] = Field(
        default=(),
        max_length=32,
        description="Directories of the container.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    service_account_name: str | None = Field(
        default=None,
        max_length=253,
        pattern=NAME_PATTERN,
        description="Service account of the pods. Default: none is mounted.",
    )
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = Field(
        default=None, description="When the image is pulled."
    )

    cel_rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.volumes) || self.volumes.all(v, self.volumes.exists_one(o, o.mountPath == v.mountPath))",
            what="Two volumes are mounted at one path.",
            fix="Give each a mountPath of its own.",
            holds=lambda s: len({v.mount_path for v in s.volumes}) == len(s.volumes),
            field=".volumes",
        ),
    )


class Process(Model):
    """What `nexus up` runs on this machine, in place of the workload."""

    command: tuple[Argument, ...] = Field(
        min_length=1, max_length=64, description="Program and arguments; python is the interpreter that runs Nexus."
    )
    port: int = Field(default=0, ge=0, le=65535, description="Port it listens on, told by PORT; 0 takes any free one.")
    env: dict[EnvName, Annotated[str, Field(max_length=32768)]] = Field(
        default={}, max_length=128, description="Environment variables."
    )
    directory: str | None = Field(
        default=None, min_length=1, max_length=1024, description="Working directory, relative to the manifest's."
    )
    replicas: int = Field(default=1, ge=0, le=16, description="How many processes run. More than one needs port 0.")

    cel_rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.replicas <= 1 || self.port == 0",
            what="Several processes cannot share one port.",
            fix="Remove port, so that each takes a free one, or set replicas to 1.",
            holds=lambda s: s.replicas <= 1 or s.port == 0,
        ),
    )
