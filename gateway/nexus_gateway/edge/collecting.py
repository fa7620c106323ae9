"""Sends OTLP to a collector over HTTP. Reads the variables of OpenTelemetry's exporter specification. Blocking: for a thread.

Not OpenTelemetry's own exporter: that one takes its SDK's spans only, whose making and encoding costs ten times as much.
"""

from __future__ import annotations

import gzip
import http.client
import ssl
import zlib
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from opentelemetry.util.re import parse_env_headers

from nexus_gateway.settings import SettingInvalid

_PREFIXES = ("OTEL_EXPORTER_OTLP_TRACES_", "OTEL_EXPORTER_OTLP_")
_COMPRESS: dict[str, Callable[[bytes], bytes]] = {"gzip": lambda body: gzip.compress(body, 1), "deflate": zlib.compress}


_URL = "an http:// or https:// URL, for example http://jaeger:4318"


class SendFailed(Exception):
    """The collector did not take a batch. retry: whether the same batch may be taken later."""

    def __init__(self, text: str, *, retry: bool) -> None:
        super().__init__(text)
        self.retry = retry


class Collector:
    """One collector, one connection that is kept. Used by one thread."""

    def __init__(self, endpoint: str, environ: Mapping[str, str]) -> None:
        """endpoint: base URL (`http://jaeger:4318`). Raises `SettingInvalid` for what of it, or of the environment, cannot be used.

        environ: `OTEL_EXPORTER_OTLP[_TRACES]_` `HEADERS`, `TIMEOUT` (seconds, default 5), `COMPRESSION` (gzip, deflate),
        `CERTIFICATE`, `CLIENT_KEY`, `CLIENT_CERTIFICATE` (files).
        """
        try:
            url = urlsplit(endpoint)
            self._host, self._port = url.hostname or "", url.port
        except ValueError as error:
            raise _unusable("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint, _URL) from error
        if url.scheme not in ("http", "https") or not self._host:
            raise _unusable("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint, _URL)

        def named(name: str) -> tuple[str, str]:
            """The variable that is set, the more special one first, and its text."""
            variables = [prefix + name for prefix in _PREFIXES]
            return next(
                ((each, found) for each in variables if (found := environ.get(each, "").strip())), (variables[-1], "")
            )

        def setting(name: str) -> str:
            return named(name)[1]

        self._path = url.path.rstrip("/") + "/v1/traces"
        variable, text = named("TIMEOUT")
        if text and not (text.isascii() and text.replace(".", "", 1).isdecimal() and float(text)):
            raise _unusable(variable, text, "seconds, more than 0")
        self._timeout_s = float(text or 5.0)
        variable, text = named("COMPRESSION")
        if text.lower() not in ("", "none", *_COMPRESS):
            raise _unusable(variable, text, "gzip, deflate or none")
        self._compress = _COMPRESS.get(text.lower())
        self._headers = {"content-type": "application/x-protobuf", "user-agent": "nexus-gateway"}
        self._headers.update(parse_env_headers(setting("HEADERS"), liberal=True))
        if self._compress is not None:
            self._headers["content-encoding"] = text.lower()
        self._tls: ssl.SSLContext | None = None
        if url.scheme == "https":
            variable, text = named("CERTIFICATE")
            try:
                self._tls = ssl.create_default_context(cafile=text or None)
            except OSError as error:
                raise _unusable(variable, text, f"a readable file of PEM certificates ({_said(error)})") from error
            variable, text = named("CLIENT_CERTIFICATE")
            if text:
                try:
                    self._tls.load_cert_chain(text, setting("CLIENT_KEY") or None)
                except OSError as error:
                    wanted = f"a readable PEM file, with its key in it or in {variable.replace('CERTIFICATE', 'KEY')} ({_said(error)})"
                    raise _unusable(variable, text, wanted) from error
        self._connection: http.client.HTTPConnection | None = None

    def send(self, body: bytes, timeout_s: float | None = None) -> None:
        """Deliver one `ExportTraceServiceRequest`. Raises `SendFailed`. timeout_s: for each step; None for the setting."""
        if self._compress is not None:
            body = self._compress(body)
        # A kept connection may have been closed since: once more on a fresh one.
        fresh = self._connection is None
        try:
            self._post(body, timeout_s)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            if fresh or isinstance(error, TimeoutError):
                raise SendFailed(_said(error), retry=True) from error
            try:
                self._post(body, timeout_s)
            except (OSError, http.client.HTTPException) as again:
                self.close()
                raise SendFailed(_said(again), retry=True) from again

    def _post(self, body: bytes, timeout_s: float | None) -> None:
        limit_s = self._timeout_s if timeout_s is None else min(timeout_s, self._timeout_s)
        connection = self._connection
        if connection is None:
            connection = (
                http.client.HTTPSConnection(self._host, self._port, timeout=limit_s, context=self._tls)
                if self._tls is not None
                else http.client.HTTPConnection(self._host, self._port, timeout=limit_s)
            )
            self._connection = connection
        elif connection.sock is not None:
            connection.sock.settimeout(limit_s)
        connection.request("POST", self._path, body, self._headers)
        response = connection.getresponse()
        response.read(65536)
        if not response.isclosed():
            self.close()  # an answer that long is no collector's
        if not 200 <= response.status < 300:
            # OTLP/HTTP specification: these four may be repeated, others not.
            raise SendFailed(f"it answers {response.status}", retry=response.status in (429, 502, 503, 504))

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _unusable(variable: str, text: str, wanted: str) -> SettingInvalid:
    return SettingInvalid(f"{variable}={text!r} cannot be used: it wants {wanted}. Change or unset {variable}.")


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
