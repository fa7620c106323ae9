"""The sections of a policy that say what happens to requests and responses on their way, whichever service is called."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from nexus_core.model.base import LABEL_PATTERN, Model
from nexus_core.model.rules import Rule
from nexus_core.model.upstream_policies import Name, Percent, RequestKey

ServiceName = Annotated[str, Field(min_length=1, max_length=63, pattern=LABEL_PATTERN)]
Bytes = Annotated[int, Field(ge=0, le=1_099_511_627_776)]


class RateLimit(Model):
    """At most so many requests in so many seconds, evenly; more are answered 429 with Retry-After."""

    requests: Annotated[int, Field(ge=1, le=1_000_000_000)] = Field(description="Requests that may pass.")
    per_seconds: Annotated[float, Field(gt=0, le=86400)] = Field(
        default=1, description="In so many seconds, evenly: 60 in 60 is one a second."
    )
    burst: Annotated[int, Field(ge=0, le=1_000_000_000)] = Field(
        default=0, description="Requests that may come at once. 0 takes requests."
    )
    key: tuple[RequestKey, ...] = Field(
        default=(),
        max_length=4,
        description="Counted for each value of the first of these that the request has, by the client's address when "
        "it has none. Left out: all requests count together.",
    )


_ORIGIN = r"^(\*|[a-z][a-z0-9+.-]*://(\*\.)?[a-z0-9]([-a-z0-9.]*[a-z0-9])?(:[0-9]{1,5})?)$"
Origin = Annotated[str, Field(min_length=1, max_length=253, pattern=_ORIGIN)]
MethodName = Annotated[str, Field(min_length=1, max_length=32, pattern=r"^(\*|[A-Z]+)$")]


class Cors(Model):
    """Which pages of other origins may call. Preflights are answered by the gateway."""

    origins: tuple[Origin, ...] = Field(
        min_length=1,
        max_length=64,
        description="https://a.example, https://*.example (one label or more) or * for every origin.",
    )
    methods: tuple[MethodName, ...] = Field(
        default=("GET", "HEAD", "POST"), max_length=16, description="Methods they may use, * for all."
    )
    headers: tuple[Name, ...] = Field(default=(), max_length=64, description="Headers they may send, * for all.")
    expose_headers: tuple[Name, ...] = Field(
        default=(), max_length=64, description="Headers of responses that scripts may read."
    )
    credentials: bool = Field(default=False, description="True lets cookies and authorization come along.")
    max_age_seconds: Annotated[int, Field(ge=0, le=86400)] = Field(
        default=5, description="How long browsers may keep a preflight's answer."
    )

    cel_rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.credentials) || !self.credentials || !self.origins.exists(o, o == '*')",
            what="With credentials every site could act in the name of whoever visits it.",
            fix='Name the origins in place of "*", or remove credentials.',
            holds=lambda s: not s.credentials or "*" not in s.origins,
            field=".origins",
        ),
    )


class Mirror(Model):
    """A copy of requests for another service, whose answers are thrown away."""

    service: ServiceName = Field(description="A NexusService of the same namespace.")
    percent: Percent = Field(default=100, description="Share of requests that is copied.")


class BodyLimits(Model):
    """How large bodies may be. Of several policies the smallest limit holds."""

    request_bytes: Bytes | None = Field(default=None, description="Larger requests are answered 413. 0: any size.")
    response_bytes: Bytes | None = Field(
        default=None, description="Larger responses are answered 502, or broken off once they have begun. 0: any size."
    )


class Delay(Model):
    """Requests that wait."""

    seconds: Annotated[float, Field(gt=0, le=3600)] = Field(description="How long they wait.")
    percent: Percent = Field(default=100, description="Share of requests.")


class Abort(Model):
    """Requests that are answered with an error."""

    status: Annotated[int, Field(ge=400, le=599)] = Field(default=503, description="The status they get.")
    percent: Percent = Field(default=100, description="Share of requests.")


class Fault(Model):
    """Trouble on purpose, to see how callers take it. Delay and abort are drawn independently."""

    delay: Delay | None = Field(default=None, description="Requests that wait.")
    abort: Abort | None = Field(default=None, description="Requests that are answered with an error.")


class Reply(Model):
    """An answer that the gateway gives itself."""

    status: Annotated[int, Field(ge=200, le=599)] = Field(default=200, description="Status of the answer.")
    body: Annotated[str, Field(max_length=65536)] = Field(default="", description="Body of the answer.")
    content_type: Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[ -~]+$")] = Field(
        default="text/plain; charset=utf-8", description="Content-Type of the answer."
    )


class Fallback(Model):
    """What a client gets in place of the gateway's own 502, 503 or 504."""

    service: ServiceName | None = Field(
        default=None, description="A NexusService of the same namespace that is tried once."
    )
    reply: Reply | None = Field(default=None, description="The answer when there is no service, or it fails too.")
