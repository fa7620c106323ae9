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

_PREFIXES = ("OTEL_EXPORTER_OTLP_TRACES_", "OTEL_EXPORTER_OTLP_")
_COMPRESS: dict[str, Callable[[bytes], bytes]] = {"gzip": lambda body: gzip.compress(body, 1), "deflate": zlib.compress}


class SendFailed(Exception):
    """The collector did not take a batch. retry: whether the same batch may be taken later."""

    def __init__(self, text: str, *, retry: bool) -> None:
        super().__init__(text)
        self.retry = retry


class Collector:
    """One collector, one connection that is kept. Used by one thread."""

    def __init__(self, endpoint: str, environ: Mapping[str, str]) -> None:
        """endpoint: base URL (`http://jaeger:4318`). Raises ValueError for one that is no http(s) URL.

        environ: `OTEL_EXPORTER_OTLP[_TRACES]_` `HEADERS`, `TIMEOUT` (seconds, default 5), `COMPRESSION` (gzip, deflate),
        `CERTIFICATE`, `CLIENT_KEY`, `CLIENT_CERTIFICATE` (files).
        """
        url = urlsplit(endpoint)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError(f"OTEL_EXPORTER_OTLP_ENDPOINT={endpoint!r} is no http:// or https:// URL.")

        def setting(name: str) -> str:
            return next((found for prefix in _PREFIXES if (found := environ.get(prefix + name, ""))), "")

        self._host, self._port = url.hostname, url.port
        self._path = url.path.rstrip("/") + "/v1/traces"
        timeout = setting("TIMEOUT")
        self._timeout_s = float(timeout) if timeout.replace(".", "", 1).isdecimal() else 5.0
        self._compress = _COMPRESS.get(setting("COMPRESSION").strip().lower())
        self._headers = {"content-type": "application/x-protobuf", "user-agent": "nexus-gateway"}
        self._headers.update(parse_env_headers(setting("HEADERS"), liberal=True))
        if self._compress is not None:
            self._headers["content-encoding"] = setting("COMPRESSION").strip().lower()
        self._tls: ssl.SSLContext | None = None
        if url.scheme == "https":
            self._tls = ssl.create_default_context(cafile=setting("CERTIFICATE") or None)
            if certificate := setting("CLIENT_CERTIFICATE"):
                self._tls.load_cert_chain(certificate, setting("CLIENT_KEY") or None)
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


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
