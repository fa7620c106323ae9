"""The plugin: judges prompts, keeps budgets, asks another provider when the first does not answer."""

from __future__ import annotations

import json
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from nexus_sdk.plugin import (
    BodyStream,
    CallFailed,
    Done,
    Headers,
    NotGranted,
    Plugin,
    PluginConfigError,
    Reply,
    RequestHead,
    ResponseHead,
)

from .answers import EventStream, Usage, redacted, text_of, usage_of
from .budgets import Budgets, InRedis, Memory, Refused, Taken, Window
from .prompts import NotUnderstood, change_texts, estimate, output_limit, parse, texts, with_output_limit
from .rules import Rules

REMAINING = "x-llm-budget-remaining"
_MAX_KEPT_BYTES = 64 * 2**20
_PATHS = ("/chat/completions", "/completions", "/embeddings", "/responses")
_CREDENTIALS = ("authorization", "x-api-key", "api-key")


@dataclass(slots=True, weakref_slot=True, eq=False)
class Open:
    """A request on its way. body: kept for the fallback, None where there is none or no room."""

    taken: Taken
    prompt_tokens: int
    body: dict[str, Any] | None
    size: int
    usage: Usage = field(default_factory=Usage)


class LlmGuard(Plugin):
    """Guards an OpenAI-compatible API."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        self._paths = tuple(str(path).lower() for path in config.get("paths", _PATHS))
        consumer: Mapping[str, Any] = config.get("consumer", {})
        self._consumer = str(consumer.get("header", "x-consumer-name")).lower()
        self._anonymous = str(consumer.get("missing", "share"))
        prompt: Mapping[str, Any] = config.get("prompt", {})
        self._prompt = Rules(prompt, "config.prompt")
        self._max_characters = int(prompt.get("maxCharacters", 100_000))
        self._response = Rules(config.get("response", {}), "config.response")
        models: Mapping[str, Any] = config.get("models", {})
        self._allowed = frozenset(models.get("allow", ()))
        self._models: Mapping[str, str] = dict(models.get("map", {}))
        self._default_output = int(config.get("defaultOutputTokens", 1024))
        self._max_output = int(config.get("maxOutputTokens", 0))
        self._fallback: Mapping[str, Any] = config.get("fallback", {})
        if self._fallback and not str(self._fallback["url"]).startswith(("https://", "http://", "nexus://")):
            raise PluginConfigError("config.fallback.url: it begins with https://, http:// or nexus://.")
        self._fallback_statuses = frozenset(self._fallback.get("statuses", (429, 500, 502, 503, 504)))
        windows = [
            Window(int(each["perSeconds"]), int(each["tokens"]), dict(each.get("consumers", {})))
            for each in config.get("budgets", ())
        ]
        redis = config.get("redis")
        store = (
            InRedis(lambda: self.context.redis(str(redis["url"])), str(redis.get("prefix", "nexus:llm")))
            if redis
            else Memory()
        )
        self._budgets = Budgets(windows, store)
        self._counts = bool(windows)
        self._key = self.context.secrets.get("api-key", "")
        self._kept_bytes = 0
        self.clock = time.time

    # ---- requests

    def on_request(self, request: RequestHead) -> RequestHead | Reply:
        """Return the request with the provider's key in the place of the client's credentials."""
        if not self._is_guarded(request):
            return request
        if self._anonymous == "refuse" and not request.header(self._consumer):
            return _refusal(401, "authentication_error", "ConsumerMissing", "The request does not say whose it is.")
        request = request.without_header("accept-encoding")
        if self._key:
            for name in _CREDENTIALS:
                request = request.without_header(name)
            request = request.with_header("authorization", f"Bearer {self._key}")
        return request

    def wants_request_body(self, request: RequestHead) -> bool:
        """Return whether the request is one to a model."""
        return self._is_guarded(request)

    async def on_request_body(self, request: RequestHead, body: bytes) -> bytes | tuple[RequestHead, bytes] | Reply:
        """Return the prompt as it goes on, or why it does not."""
        if (request.header("content-encoding") or "identity").strip().lower() != "identity":
            return _refusal(
                415, "invalid_request_error", "EncodingUnsupported", "Send the body without content-encoding."
            )
        try:
            asked = parse(body)
            words = list(texts(asked))
            output = output_limit(asked, self._default_output)
        except NotUnderstood as error:
            return _refusal(400, "invalid_request_error", "RequestNotUnderstood", str(error))
        refusal = self._judge(asked, words)
        if refusal is not None:
            return refusal
        changed = self._changed(asked)
        if self._max_output:
            output = min(output, self._max_output * (asked.get("n") or 1))
        if unquote(request.path).rstrip("/").lower().endswith("/embeddings"):
            output = 0
        prompt_tokens = sum(map(estimate, words))
        taken = await self._budgets.take(request.header(self._consumer) or "", prompt_tokens + output, self.clock())
        if isinstance(taken, Refused):
            return _exhausted(taken)
        self._remember(request, Open(taken, prompt_tokens, changed if self._fallback else None, len(body)))
        return body if changed is asked else json.dumps(changed, ensure_ascii=False).encode("utf-8", "surrogatepass")

    def _judge(self, asked: dict[str, Any], words: list[str]) -> Reply | None:
        if sum(map(len, words)) > self._max_characters:
            detail = f"The prompt has more than {self._max_characters} characters."
            return _refusal(413, "invalid_request_error", "PromptTooLong", detail)
        if self._allowed and asked.get("model") not in self._allowed:
            return _refusal(403, "invalid_request_error", "ModelNotAllowed", "The model is not allowed here.")
        if asked.get("stream") and self._response.redacts:
            return _refusal(
                400, "invalid_request_error", "StreamNotAllowed", "Answers are redacted here; ask without stream."
            )
        # Together: what is not allowed may be spread over messages. The newline keeps words apart.
        why = self._prompt.refusal("\n".join(words))
        return _refusal(403, "invalid_request_error", "PromptDenied", why) if why else None

    def _changed(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Return the request as the provider gets it; the same object when nothing changes."""
        changed = asked
        if asked.get("model") in self._models:
            changed = {**changed, "model": self._models[asked["model"]]}
        if self._prompt.redacts:
            changed = change_texts(changed, self._prompt.redacted)
        if (
            self._max_output
            and "dimensions" not in changed
            and ("messages" in changed or "prompt" in changed or "max_output_tokens" in changed)
        ):
            changed = with_output_limit(changed, self._max_output)
        if changed.get("stream") and self._counts and "messages" in changed:
            # Without this a streamed answer does not say what it took.
            options = changed.get("stream_options")
            changed = {
                **changed,
                "stream_options": {**(options if isinstance(options, dict) else {}), "include_usage": True},
            }
        return changed

    def _remember(self, request: RequestHead, entry: Open) -> None:
        if self._kept_bytes + entry.size > _MAX_KEPT_BYTES:
            entry.body = None
        if entry.body is None:
            entry.size = 0
        self._kept_bytes += entry.size
        # However it ends: a plugin that is disabled meanwhile is not told of the end.
        weakref.finalize(entry, self._let_go, entry.size)
        request.notes[self.context.plugin] = entry

    def _let_go(self, size: int) -> None:
        self._kept_bytes -= size

    # ---- responses

    async def on_response(self, request: RequestHead, response: ResponseHead) -> ResponseHead | Reply:
        """Return the response's head with what is left of the budget, or another provider's answer."""
        entry: Open | None = request.notes.get(self.context.plugin)
        if entry is None:
            return response
        if response.status in self._fallback_statuses and entry.body is not None:
            reply = await self._ask_fallback(entry)
            if reply is not None:
                return reply
        return response.with_header(REMAINING, str(entry.taken.left)) if self._counts else response

    async def _ask_fallback(self, entry: Open) -> Reply | None:
        """Return the other provider's answer, None when it has none either. A streamed answer comes in one piece."""
        asked = entry.body
        assert asked is not None
        model = str(asked.get("model", ""))
        models: Mapping[str, str] = self._fallback.get("models", {})
        if model in models:
            asked = {**asked, "model": models[model]}
        headers: Headers = (("content-type", "application/json"),)
        key = self.context.secrets.get("fallback-key", "")
        if key:
            headers = (*headers, ("authorization", f"Bearer {key}"))
        body = json.dumps(asked, ensure_ascii=False).encode("utf-8", "surrogatepass")
        timeout_s = float(self._fallback.get("timeoutSeconds", 30.0))
        try:
            called = await self.context.call(
                "POST", str(self._fallback["url"]), headers=headers, body=body, timeout_s=timeout_s
            )
        except (CallFailed, NotGranted) as error:
            self.context.log.warning("fallback: %s", error)
            return None
        if not 200 <= called.status < 300:
            self.context.log.warning("fallback: it answered %d", called.status)
            return None
        media_type = called.header("content-type") or "application/json"
        kept: Headers = (("content-type", media_type), ("x-llm-provider", "fallback"))
        if media_type.startswith("text/event-stream"):
            stream = EventStream(entry.usage, self._response.deny)
            return Reply(called.status, self._told(kept, entry), stream.feed(called.body) + stream.finish())
        return self._answered(entry, called.status, kept, called.body)

    def wants_response_body(self, request: RequestHead, response: ResponseHead) -> bool:
        """Return whether the answer is one in JSON to a request that was counted."""
        return self.context.plugin in request.notes and _is_json(response.headers) and response.status < 300

    def on_response_body(self, request: RequestHead, response: ResponseHead, body: bytes) -> bytes | Reply:
        """Return the answer without what is taken out, or a refusal of it."""
        entry: Open | None = request.notes.get(self.context.plugin)
        if entry is None:
            return body
        headers = tuple(pair for pair in response.headers if pair[0] not in ("content-length", REMAINING))
        return self._answered(entry, response.status, headers, body)

    def on_response_stream(self, request: RequestHead, response: ResponseHead) -> BodyStream | None:
        """Return what reads along with a streamed answer."""
        entry: Open | None = request.notes.get(self.context.plugin)
        media_type = (response.header("content-type") or "").lower()
        if entry is None or response.status >= 300 or not media_type.startswith("text/event-stream"):
            return None
        return EventStream(entry.usage, self._response.deny)

    def _answered(self, entry: Open, status: int, headers: Headers, body: bytes) -> Reply:
        """Return a whole answer, judged and counted."""
        try:
            answer = json.loads(body)
            text = text_of(answer)
        except (ValueError, RecursionError):
            answer, text = None, body.decode("utf-8", "replace")
        entry.usage.counted = usage_of(answer)
        entry.usage.seen = estimate(text)
        if self._response.refusal(text):
            refused = _refusal(502, "guard_error", "ResponseDenied", "The answer had something that is not allowed.")
            return Reply(refused.status, self._told(refused.headers, entry), refused.body)
        if self._response.redacts:
            made = redacted(answer, self._response.redacted) if answer is not None else None
            body = (
                json.dumps(made, ensure_ascii=False).encode("utf-8", "surrogatepass")
                if made is not None
                else self._response.redacted(text).encode()
            )
        return Reply(status, self._told(headers, entry), body)

    def _told(self, headers: Headers, entry: Open) -> Headers:
        """Return the headers with what is left after this answer."""
        if not self._counts:
            return headers
        left = entry.taken.left + entry.taken.tokens - self._took(entry)
        return (*headers, (REMAINING, str(max(left, 0))))

    # ---- the end

    async def on_done(self, request: RequestHead, done: Done) -> None:
        """Settle what the request took."""
        entry: Open | None = request.notes.pop(self.context.plugin, None)
        if entry is None:
            return
        nothing = entry.usage.counted is None and not entry.usage.seen and (done.status >= 400 or not done.bytes_out)
        await self._budgets.settle(entry.taken, 0 if nothing else self._took(entry))

    def _took(self, entry: Open) -> int:
        """Return the tokens of an exchange: as the provider counted them, else by estimate, which is all that was taken before any came."""
        if entry.usage.counted is not None:
            return entry.usage.counted
        return entry.prompt_tokens + entry.usage.seen if entry.usage.seen else entry.taken.tokens

    def _is_guarded(self, request: RequestHead) -> bool:
        # Decoded: the provider takes `/chat/completion%73` for the same place.
        return request.method == "POST" and unquote(request.path).rstrip("/").lower().endswith(self._paths)


def _is_json(headers: Headers) -> bool:
    found = dict(reversed(headers))
    media_type = found.get("content-type", "").partition(";")[0].strip().lower()
    return media_type == "application/json" or media_type.endswith("+json")


def _refusal(status: int, kind: str, reason: str, detail: str, headers: Headers = ()) -> Reply:
    """Return an error as clients of this API know them."""
    body = {"error": {"message": detail, "type": kind, "code": reason}}
    return Reply(status, (("content-type", "application/json"), *headers), json.dumps(body).encode())


def _exhausted(refused: Refused) -> Reply:
    detail = f"The budget of {refused.window.seconds} seconds has {refused.left} tokens left; try again in {refused.wait_s} s."
    headers = (("retry-after", str(refused.wait_s)), (REMAINING, str(refused.left)))
    return _refusal(429, "rate_limit_error", "TokenBudgetExceeded", detail, headers)
