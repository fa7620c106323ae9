"""`nexus explain --live` against a server that answers signed debug headers as a gateway does, or does not."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from nexus_gateway.telemetry import debugging

KEY = b"a key of sixteen characters"


class Front(BaseHTTPRequestHandler):
    """Answers with the explanation if the token holds. key: of the tokens; signs: of its answers."""

    key: ClassVar[bytes] = KEY
    signs: ClassVar[bytes] = KEY
    seen: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        token = self.headers.get(debugging.ASKS, "").encode()
        self.seen.append(f"{self.headers['host']}{self.path}")
        nonce = debugging.verify(token, self.key, "GET", "shop.example", "/orders", time.time())
        self.send_response(200)
        if nonce is not None:
            facts = {
                "status": 200, "route": "HTTPRoute/shop/a", "rule": "HTTPRoute/shop/a/0", "generation": 3, "ms": 1.5,
                "attempts": [{"endpoint": "10.0.0.1:80", "outcome": "answered", "status": 200, "at_ms": 0.1, "ms": 1.2,
                              "circuit": "closed", "hedge": False}],
                "others": [{"route": "HTTPRoute/shop/b", "rule": "x", "why": "It takes POST only."}],
            }  # fmt: skip
            answer = debugging.build(facts)
            self.send_header(debugging.ANSWERS, answer)
            self.send_header(debugging.SIGNS, debugging.sign_answer(self.signs, nonce, answer))
        self.send_header("content-length", "0")
        self.end_headers()

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Say nothing."""


@pytest.fixture
def front() -> Iterator[int]:
    Front.key = Front.signs = KEY
    Front.seen = []
    with HTTPServer(("127.0.0.1", 0), Front) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def run(tmp_path: Path, *arguments: str, key: bytes = KEY) -> subprocess.CompletedProcess[str]:
    (tmp_path / "key").write_bytes(key + b"\n")
    return subprocess.run(
        [sys.executable, "-m", "nexus_cli", "explain", "--live", *arguments, "--key-file", str(tmp_path / "key")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_what_happened_is_shown_once_its_signature_holds(front: int, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{front}/./orders?x=1"
    done = run(tmp_path, "GET", url, "-H", "Host: shop.example")
    assert done.returncode == 0, done.stderr
    assert "GET shop.example/orders was answered 200 after 1.5 ms." in done.stdout
    assert "10.0.0.1:80 answered 200" in done.stdout
    assert "It takes POST only." in done.stdout
    assert Front.seen == ["shop.example/./orders?x=1"]
    done = run(tmp_path, "GET", url, "-H", "Host: shop.example", "-o", "json")
    assert json.loads(done.stdout)["attempts"][0]["endpoint"] == "10.0.0.1:80"


def test_another_key_gets_no_explanation(front: int, tmp_path: Path) -> None:
    done = run(tmp_path, "GET", f"http://127.0.0.1:{front}/orders", "-H", "Host: shop.example", key=b"k" * 16)
    assert done.returncode == 1
    assert "explained nothing" in done.stderr


def test_an_answer_with_a_wrong_signature_is_not_believed(front: int, tmp_path: Path) -> None:
    Front.signs = b"somebody else in between"
    done = run(tmp_path, "GET", f"http://127.0.0.1:{front}/orders", "-H", "Host: shop.example")
    assert done.returncode == 1
    assert "not signed with this key" in done.stderr
    assert "10.0.0.1" not in done.stdout


@pytest.mark.parametrize(
    ("url", "key", "says"),
    [("/orders", KEY, "not a URL"), ("http://127.0.0.1:9/orders", KEY, "No gateway answers"),
     ("http://127.0.0.1:9/a%2Fb", KEY, "answers 400"), ("http://127.0.0.1:9/", b"short", "16 or more")],
)  # fmt: skip
def test_what_cannot_be_sent_is_said(tmp_path: Path, url: str, key: bytes, says: str) -> None:
    done = run(tmp_path, "GET", url, key=key)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
