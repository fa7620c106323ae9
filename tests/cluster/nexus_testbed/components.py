"""The programs the cluster is made of: built once from Go modules, kept in a cache, found by version and content.

A component's directory in the cache is named `<name>-<version>-<hash of its go.mod, go.sum, main.go and flags>`. It is
renamed into place when it is complete, so a killed build leaves nothing that looks finished; a lock file makes a second
run wait for the first one's build instead of repeating it. etcd is not built: it is Debian's `etcd-server`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from nexus_testbed import places

GO_NEEDED = (1, 26)
GO_REMEDY = (
    f"Install Go {GO_NEEDED[0]}.{GO_NEEDED[1]} or newer from https://go.dev/dl/ (unpack to /usr/local/go); "
    "Kubernetes 1.36 asks for it. The `golang` package of apt is too old."
)
KUBERNETES_VERSION = "1.36.3"
GATEWAY_API_VERSION = "1.6.3"
GATEWAY_API_CHANNELS = ("standard", "experimental")
_VERSION_PACKAGE = "k8s.io/component-base/version"
_OFFLINE = re.compile(r"no such host|i/o timeout|connection refused|network is unreachable|proxyconnect|TLS handshake")


class BuildError(RuntimeError):
    """A component could not be built; the text says what to do (environment's)."""


@dataclass(frozen=True, slots=True)
class Component:
    """One program built from a Go module of the repository."""

    name: str
    version: str
    package: str
    """Go package to build, seen from the component's module."""
    expected_s: int
    """Build time with an empty build cache on 2 cores, shown to whoever waits."""
    defines: tuple[tuple[str, str], ...] = ()
    """Go variables set at link time."""
    sources: Path | None = None
    """Directory of the Go module; None: `components/<name>/`."""
    is_test: bool = False
    """Build the package's tests as a program (`go test -c`) instead of the package."""


KUBEHOST = Component(
    "kubehost", KUBERNETES_VERSION, ".", 300,
    # Without these `kubectl version` and Helm cannot parse what the API server says of itself.
    tuple((f"{_VERSION_PACKAGE}.{k}", v) for k, v in (
        ("gitVersion", f"v{KUBERNETES_VERSION}"), ("gitMajor", "1"), ("gitMinor", "36"), ("gitTreeState", "clean"))))  # fmt: skip
CONSUL = Component("consul", "1.13.9", ".", 180)
JAEGER = Component("jaeger", "1.62.0", "github.com/jaegertracing/jaeger/cmd/all-in-one", 100)
NATS = Component("nats", "2.15.2", "github.com/nats-io/nats-server/v2", 15)
HELM = Component("helm", "3.18.4", "helm.sh/helm/v3/cmd/helm", 90)
# Both from one module, so that the backends are those the suite was released with.
_SUITE = places.REPOSITORY / "tests" / "conformance" / "gateway_api" / "suite"
CONFORMANCE = Component("conformance", GATEWAY_API_VERSION, ".", 105, sources=_SUITE, is_test=True)
ECHO_BASIC = Component(
    "echo-basic", GATEWAY_API_VERSION, "sigs.k8s.io/gateway-api/conformance/echo-basic", 20, sources=_SUITE
)
H2SPEC = Component("h2spec", "2.2.1", "github.com/summerwind/h2spec/cmd/h2spec", 10)
GHZ = Component("ghz", "0.93.0", "github.com/bojand/ghz/cmd/ghz", 40)
COMPONENTS = {c.name: c for c in (KUBEHOST, CONSUL, JAEGER, HELM, NATS, CONFORMANCE, ECHO_BASIC, H2SPEC, GHZ)}


def sources_of(component: Component) -> Path:
    return component.sources or places.COMPONENT_SOURCES / component.name


def _go_flags(component: Component) -> list[str]:
    defines = " ".join(f"-X {key}={value}" for key, value in component.defines)
    return ["-trimpath", "-ldflags", f"-s -w {defines}".strip()]


def directory_of(component: Component) -> Path:
    """Return where the component is, or will be, in the cache."""
    digest = hashlib.sha256()
    # A program of a module that we only name is not made of the files of ours beside it.
    own = ["*.go"] if component.package == "." else []
    for path in sorted(path for pattern in ("go.mod", "go.sum", *own) for path in sources_of(component).glob(pattern)):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    digest.update("\0".join([component.package, *_go_flags(component)]).encode())
    return places.cache_dir() / f"{component.name}-{component.version}-{digest.hexdigest()[:12]}"


def path_of(component: Component) -> Path:
    """Return the path of the component's program, which may not exist yet."""
    return directory_of(component) / component.name


def is_built(component: Component) -> bool:
    return path_of(component).exists()


def get_go() -> str:
    """Return the path of a Go that is new enough. Raises BuildError with the remedy."""
    found = [p for p in (shutil.which("go"), "/usr/local/go/bin/go") if p and os.access(p, os.X_OK)]
    if not found:
        raise BuildError(f"Go is not installed, and test cluster components have to be built. {GO_REMEDY}")
    go = found[0]
    text = subprocess.run(
        [go, "env", "GOVERSION"], capture_output=True, text=True, timeout=30, check=True, env=_go_env(), cwd="/"
    ).stdout.strip()
    match = re.match(r"go(\d+)\.(\d+)", text)
    if match is None or (int(match[1]), int(match[2])) < GO_NEEDED:
        raise BuildError(f"{go} is {text or 'of an unknown version'}: too old. {GO_REMEDY}")
    return go


def _go_env() -> dict[str, str]:
    # GOTOOLCHAIN=local: never download another Go behind the user's back. CGO off: static programs run in any root.
    # Of the caller's flags only `-p` counts, the number of compilers at a time: a small machine wants it at 1.
    jobs = re.findall(r"(?<!\S)-p=\d+", os.environ.get("GOFLAGS", ""))
    flags = " ".join(["-mod=readonly", "-buildvcs=false", *jobs])
    return {**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": flags, "CGO_ENABLED": "0", "GOWORK": "off"}


@contextlib.contextmanager
def _locked(out: TextIO) -> Iterator[None]:
    """Hold the cache's build lock: one build at a time, since one uses every core."""
    cache = places.cache_dir()
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for another build of the test cluster components to end", file=out, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def ensure(names: Sequence[str], out: TextIO = sys.stderr) -> dict[str, Path]:
    """Build what is missing of `names` and return the path of each program. Raises BuildError.

    out: where progress is shown; silent if nothing is missing.
    """
    wanted = [COMPONENTS[name] for name in names]
    if not all(is_built(component) for component in wanted):
        go = get_go()
        with _locked(out):
            for left_over in places.cache_dir().glob(".building-*"):
                shutil.rmtree(left_over)
            missing = [component for component in wanted if not is_built(component)]
            for number, component in enumerate(missing, 1):
                _build(go, component, f"[{number}/{len(missing)}]", out)
    return {component.name: path_of(component) for component in wanted}


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _build(go: str, component: Component, position: str, out: TextIO) -> None:
    title = f"{position} {component.name} {component.version}"
    print(f"{title}: building, about {_clock(component.expected_s)} on 2 cores", file=out, flush=True)
    started = shown = time.monotonic()
    scratch = Path(tempfile.mkdtemp(prefix=f".building-{component.name}-", dir=places.cache_dir()))
    try:
        command = ["test", "-c"] if component.is_test else ["build"]
        argv = [go, *command, *_go_flags(component), "-o", str(scratch / component.name), component.package]
        with (scratch / "build.log").open("w+b") as log:
            # Its own process group: an interrupted build must not leave compilers behind.
            process = subprocess.Popen(
                argv, cwd=sources_of(component), env=_go_env(), stdout=log, stderr=subprocess.STDOUT, process_group=0
            )
            try:
                while True:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(timeout=0.5)
                        break
                    elapsed = time.monotonic() - started
                    if out.isatty() or time.monotonic() - shown >= 15:
                        shown = time.monotonic()
                        text = f"{title}: {_clock(elapsed)} of about {_clock(component.expected_s)}"
                        print(
                            f"\r{text}  " if out.isatty() else text,
                            end="" if out.isatty() else "\n",
                            file=out,
                            flush=True,
                        )
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, 15)
                    process.wait()
            log.seek(0)
            text = log.read().decode(errors="replace")
        if process.returncode:
            remedy = (
                "No connection to the Go module proxy. Build once with a connection (GOPROXY selects the proxy), or copy "
                f"{places.cache_dir()} from a machine that has built them."
                if _OFFLINE.search(text)
                else f"Sources: {sources_of(component)}."
            )
            raise BuildError(f"building {component.name} {component.version} failed. {remedy}\n{text[-4000:]}")
        target = directory_of(component)
        scratch.chmod(0o755)
        scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    size_mb = path_of(component).stat().st_size / 1e6
    done = f"{title}: built in {_clock(time.monotonic() - started)}, {size_mb:.0f} MB"
    print(f"\r{done}  " if out.isatty() else done, file=out, flush=True)


def ensure_gateway_api(out: TextIO = sys.stderr, channel: str = "standard") -> Path:
    """Return a directory with the CRDs of the Gateway API, fetched once. Raises BuildError.

    channel: `standard` or `experimental` (the first with more fields, and more kinds).
    """
    if channel not in GATEWAY_API_CHANNELS:
        raise ValueError(
            f"no such channel of the Gateway API: {channel!r}; there are {', '.join(GATEWAY_API_CHANNELS)}"
        )
    suffix = "" if channel == "standard" else f"-{channel}"
    target = places.cache_dir() / f"gateway-api-{GATEWAY_API_VERSION}{suffix}"
    if target.exists():
        return target
    go = get_go()
    with _locked(out):
        if target.exists():
            return target
        module = f"sigs.k8s.io/gateway-api@v{GATEWAY_API_VERSION}"
        print(f"fetching {module}", file=out, flush=True)
        done = subprocess.run(
            [go, "mod", "download", "-json", module],
            cwd=places.cache_dir(), env={**_go_env(), "GOFLAGS": ""}, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        answer = json.loads(done.stdout or "{}")
        if done.returncode or "Dir" not in answer:
            why = answer.get("Error") or done.stderr.strip()
            raise BuildError(
                f"fetching {module} failed: {why}. It needs a connection to the Go module proxy (GOPROXY), once."
            )
        scratch = Path(tempfile.mkdtemp(prefix=".building-gateway-api-", dir=places.cache_dir()))
        try:
            for path in sorted(Path(answer["Dir"], "config/crd", channel).glob("gateway*.yaml")):
                (scratch / path.name).write_bytes(path.read_bytes())
            scratch.chmod(0o755)
            scratch.rename(target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return target
