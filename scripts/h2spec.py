"""Run h2spec against a gateway's HTTP/2 listeners, in clear and over TLS; exit with 1 unless every case passes.

The gateway is one of its own, on loopback, before an upstream that answers everything; both are gone afterwards. h2spec (a Go
program) is built once by the test bed.

    .venv/bin/python scripts/h2spec.py [PATH OF h2spec]
"""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import sys
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path

import uvloop
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from nexus_gateway.testing import Harness, simple

REPOSITORY = Path(__file__).resolve().parent.parent
GROUPS = ("generic", "http2", "hpack")
CASES = 145
"""Of version 2.2.1. Fewer would mean that some were not run."""
LIMIT_S = 120


def say(line: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{line}\n")


def write_certificate(directory: Path) -> None:
    """Write a pair for 127.0.0.1 that is valid for a day."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "h2spec")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    (directory / "default.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (directory / "default.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


async def run(program: Path, port: int, report: Path, *, tls: bool) -> tuple[int, list[str]]:
    """Return how many cases were run, and those that failed or were left out."""
    arguments = ["-h", "127.0.0.1", "-p", str(port), "-o", "5", "-j", str(report), *(["-t", "-k"] if tls else [])]
    process = await asyncio.create_subprocess_exec(program, *GROUPS, *arguments, stdout=asyncio.subprocess.DEVNULL)
    try:
        async with asyncio.timeout(LIMIT_S):
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    cases = ET.parse(report).getroot().findall(".//testcase")
    wrong = [
        f"{case.get('package')}: {case.get('classname')}"
        for case in cases
        if any(case.find(outcome) is not None for outcome in ("failure", "error", "skipped"))
    ]
    return len(cases), wrong


async def check(program: Path) -> bool:
    """Start a gateway and run every case against both listeners; print the outcome and return whether all is well."""
    well = True
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        write_certificate(directory)
        harness = Harness(directory)

        async def answer(request: web.Request) -> web.Response:
            await request.read()
            return web.Response(text="answer")

        try:
            port = await harness.upstreams.start(answer)
            gateway = await harness.start(simple(port), tls_listen="127.0.0.1:0", tls_certificates=directory)
            for where, at, tls in (("in clear", gateway.port, False), ("over TLS", gateway.tls_port, True)):
                assert at
                count, wrong = await run(program, at, directory / "report.xml", tls=tls)
                say(f"h2spec {where}: {count - len(wrong)} of {count} cases passed")
                for case in wrong:
                    say(f"  failed or left out: {case}")
                if count != CASES:
                    say(f"  {CASES} cases were expected")
                well = well and not wrong and count == CASES
        finally:
            await harness.close()
    return well


def main() -> int:
    """Return the exit status."""
    if len(sys.argv) > 1:
        program = Path(sys.argv[1])
    else:
        sys.path.insert(0, str(REPOSITORY / "tests" / "cluster"))
        from nexus_testbed import components

        program = components.ensure(["h2spec"])["h2spec"]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return 0 if runner.run(check(program)) else 1


if __name__ == "__main__":
    raise SystemExit(main())
