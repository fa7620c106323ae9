"""A proof of work that a browser does once: a page with a script that looks for a number, and the cookie it comes back with.

The cookie is `<issued>.<nonce>.<mac>.<number>`. The MAC binds the first two to the client, so that nothing has to be stored and no
cookie is good elsewhere; the SHA-256 of all four has to begin with so many zero bits. It proves that somebody ran the script and spent
the time.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from string import Template

_COOKIE = re.compile(r"([0-9a-f]{1,16})\.([A-Za-z0-9_-]{11})\.([A-Za-z0-9_-]{43})\.([0-9]{1,12})")
_SKEW_S = 60


class Challenges:
    """Makes challenges and checks what comes back. bits: that have to be zero; a browser tries about 2^bits numbers."""

    __slots__ = ("_bits", "_key", "_lifetime_s")

    def __init__(self, secret: str, bits: int, lifetime_s: int) -> None:
        # A key of its own for this use: the same secret may sign other things elsewhere.
        self._key = hashlib.sha256(b"nexus bot challenge\0" + secret.encode()).digest()
        self._bits = bits
        self._lifetime_s = lifetime_s

    def issue(self, client: str, now: float) -> str:
        """Return a challenge for a client. now: seconds since 1970."""
        nonce = base64.urlsafe_b64encode(secrets.token_bytes(8)).decode().rstrip("=")
        issued = f"{int(now):x}"
        return f"{issued}.{nonce}.{self._mac(issued, nonce, client)}"

    def is_solved(self, cookie: str, client: str, now: float) -> bool:
        """Return whether a cookie is a challenge of this client's, solved, within its lifetime."""
        match = _COOKIE.fullmatch(cookie)
        if match is None:
            return False
        issued, nonce, mac, _ = match.groups()
        if not -_SKEW_S <= now - int(issued, 16) <= self._lifetime_s:
            return False
        if not hmac.compare_digest(mac, self._mac(issued, nonce, client)):
            return False
        return is_proof(cookie, self._bits)

    def page(self, client: str, now: float, cookie: str, *, secure: bool) -> tuple[bytes, str]:
        """Return the page, and the Content-Security-Policy that lets its one script run and nothing else."""
        nonce = secrets.token_urlsafe(12)
        attributes = f"; Path=/; Max-Age={self._lifetime_s}; SameSite=Lax" + ("; Secure" if secure else "")
        page = _PAGE.substitute(
            nonce=nonce,
            challenge=self.issue(client, now),
            bits=self._bits,
            cookie=cookie,
            attributes=attributes,
            script=_SCRIPT,
        )
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        return page.encode(), policy

    def _mac(self, issued: str, nonce: str, client: str) -> str:
        text = f"{issued}.{nonce}.{client}"
        return (
            base64.urlsafe_b64encode(hmac.digest(self._key, text.encode("utf-8", "surrogateescape"), "sha256"))
            .decode()
            .rstrip("=")
        )


def is_proof(text: str, bits: int) -> bool:
    """Return whether the SHA-256 of a text begins with so many zero bits."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest(), "big") >> (256 - bits) == 0


def solve(challenge: str, bits: int) -> str:
    """Return the cookie that solves a challenge, as the page's script does."""
    number = 0
    while not is_proof(f"{challenge}.{number}", bits):
        number += 1
    return f"{challenge}.{number}"


# SHA-256 by hand: `crypto.subtle` is only there on https, and a promise for each try takes far longer than the try.
_SCRIPT = """
const K = [], H0 = [];
{
  const fraction = (x) => ((x - Math.floor(x)) * 4294967296) | 0;
  for (let n = 2; K.length < 64; n++) {
    let prime = true;
    for (let d = 2; d * d <= n; d++) if (n % d === 0) { prime = false; break; }
    if (prime) { if (H0.length < 8) H0.push(fraction(Math.pow(n, 1 / 2))); K.push(fraction(Math.pow(n, 1 / 3))); }
  }
}
const rotr = (x, n) => (x >>> n) | (x << (32 - n));
function sha256(text) {
  const length = text.length, blocks = ((length + 8) >> 6) + 1, words = new Int32Array(blocks * 16);
  for (let i = 0; i < length; i++) words[i >> 2] |= text.charCodeAt(i) << (24 - (i & 3) * 8);
  words[length >> 2] |= 0x80 << (24 - (length & 3) * 8);
  words[blocks * 16 - 1] = length * 8;
  const h = Int32Array.from(H0), w = new Int32Array(64);
  for (let at = 0; at < words.length; at += 16) {
    for (let i = 0; i < 64; i++) {
      if (i < 16) w[i] = words[at + i];
      else {
        const a = w[i - 15], b = w[i - 2];
        w[i] = (w[i - 16] + (rotr(a, 7) ^ rotr(a, 18) ^ (a >>> 3)) + w[i - 7] + (rotr(b, 17) ^ rotr(b, 19) ^ (b >>> 10))) | 0;
      }
    }
    let [a, b, c, d, e, f, g, k] = h;
    for (let i = 0; i < 64; i++) {
      const one = (k + (rotr(e, 6) ^ rotr(e, 11) ^ rotr(e, 25)) + ((e & f) ^ (~e & g)) + K[i] + w[i]) | 0;
      const two = ((rotr(a, 2) ^ rotr(a, 13) ^ rotr(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      k = g; g = f; f = e; e = (d + one) | 0; d = c; c = b; b = a; a = (one + two) | 0;
    }
    h[0] += a; h[1] += b; h[2] += c; h[3] += d; h[4] += e; h[5] += f; h[6] += g; h[7] += k;
  }
  return h;
}
function solve(challenge, bits) {
  for (let number = 0; ; number++) {
    const text = challenge + "." + number;
    if (sha256(text)[0] >>> (32 - bits) === 0) return text;
  }
}
"""

_PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="robots" content="noindex"><title>One moment</title>
<style nonce="$nonce">
body{font:16px/1.5 system-ui,sans-serif;margin:20vh auto;max-width:30em;padding:0 1em;text-align:center}</style></head>
<body><h1>One moment</h1><p>Your browser is being checked. This takes a second or two.</p>
<noscript><p>Please turn on JavaScript, and load this page again.</p></noscript>
<script nonce="$nonce">$script
setTimeout(() => {
  document.cookie = "$cookie=" + solve("$challenge", $bits) + "$attributes";
  if (document.cookie.includes("$cookie=")) location.reload();
  else document.querySelector("p").textContent = "Please allow cookies, and load this page again.";
}, 50);
</script></body></html>
""")
