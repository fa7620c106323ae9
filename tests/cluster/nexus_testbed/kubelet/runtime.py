"""One run of one container: a local process with its own view of the files, in the pod's network namespace.

The process sees the machine's root file system through an overlay (what it writes is gone when it ends), with the pod's
volumes bind-mounted at their places and with its own /etc/hosts, /etc/hostname and /etc/resolv.conf. The chain
`nsenter → unshare → sh → unshare --root → program` only ever `exec`s: the pid we start is the pid of the program.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nexus_testbed import places, processes
from nexus_testbed.kubelet import logs
from nexus_testbed.kubelet.sandbox import Sandbox

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DRAIN_S = 2.0
"""How long the log of an ended container may stay open by processes it left behind (only without cgroups)."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that is needed to start a container once."""

    argv: Sequence[str]
    env: Mapping[str, str]
    working_dir: str
    mounts: Sequence[tuple[Path, str, bool]]
    """(source, absolute target in the container, read-only), parents before children."""
    hostname: str
    hosts: str
    resolv_conf: str
    user: int | None = None
    group: int | None = None
    extra_group: int | None = None
    read_only_root: bool = False
    needs: Sequence[Path] = ()
    """Directories that the image needs beside those of the project."""


def _needed_directories(plan: Plan) -> list[Path]:
    """Return the directories programs of the project run from: they must be visible and reachable in every container."""
    paths = {Path(sys.base_prefix), Path(sys.prefix), places.REPOSITORY, places.cache_dir(), *plan.needs}
    return sorted(path.resolve() for path in paths if path.exists())


def _foreign_mounts(needed: Sequence[Path]) -> list[Path]:
    """Return needed directories that are not on the root file system: an overlay of / does not show them."""
    root = os.stat("/").st_dev
    return [path for path in needed if path.stat().st_dev != root]


def _hidden(targets: Sequence[str], needed: Sequence[Path]) -> list[Path]:
    """Return needed directories that a volume mounted above them would hide, as one on /tmp hides a checkout there."""
    mounted = [Path(os.path.realpath(target)) for target in targets]
    hidden = [p for p in needed if any(p.is_relative_to(m) for m in mounted)]
    return [p for p in hidden if not any(p != other and p.is_relative_to(other) for other in hidden)]


def build_script(plan: Plan, root_dir: Path, cgroup: Path | None) -> str:
    """Return the shell script that builds the container's view and becomes its program (given as "$@")."""
    q = shlex.quote
    base, top = str(root_dir), str(root_dir / "m")

    def inside(target: str) -> str:
        # Symbolic links on the way (/var/run -> /run) must be resolved as the container will: it sees the same root.
        return top + os.path.realpath(target)

    lines = [f"P=$PATH; PATH={SYSTEM_PATH}"]
    if cgroup is not None:
        lines.append(f"echo $$ > {q(str(cgroup / 'cgroup.procs'))}")
    lines += [
        f"echo {q(plan.hostname)} > /proc/sys/kernel/hostname",
        f"mount -t tmpfs -o mode=755 tmpfs {q(base)}",
        f"mkdir {q(base)}/u {q(base)}/w {q(top)}",
        f"mount -t overlay overlay -o lowerdir=/,upperdir={q(base)}/u,workdir={q(base)}/w {q(top)}",
        f"mount --rbind /proc {q(top)}/proc",
        f"mount --rbind /dev {q(top)}/dev",
    ]
    needed = _needed_directories(plan)
    for path in _foreign_mounts(needed):
        lines.append(f"mkdir -p {q(top + str(path))} && mount --rbind {q(str(path))} {q(top + str(path))}")
    for name, text in (("hosts", plan.hosts), ("hostname", plan.hostname + "\n"), ("resolv.conf", plan.resolv_conf)):
        # rm first: it may be a symbolic link, and writing through it would miss the overlay.
        lines.append(f"rm -f {q(top)}/etc/{name}; printf %s {q(text)} > {q(top)}/etc/{name}")
    hidden = _hidden([target for _, target, _ in plan.mounts], needed)
    closing = []
    for number, (source, target, read_only) in enumerate(plan.mounts):
        to = q(inside(target))
        if source.is_dir():
            lines.append(f"mkdir -p {to}")
        else:
            lines.append(f"mkdir -p $(dirname {to}) && touch {to}")
        if read_only and any(path.is_relative_to(os.path.realpath(target)) for path in hidden):
            # A place to mount what it hides must be made in it, and its own directory is not ours to change.
            upper, work = f"{base}/v{number}", f"{base}/x{number}"
            layers = f"lowerdir={source},upperdir={upper},workdir={work}"
            lines.append(f"mkdir {q(upper)} {q(work)} && mount -t overlay overlay -o {q(layers)} {to}")
            closing.append(f"mount -o remount,ro {to}")
            continue
        lines.append(f"mount --rbind {q(str(source))} {to}")
        if read_only:
            lines.append(f"mount -o remount,bind,ro {to}")
    for number, path in enumerate(hidden):
        # An overlay and no bind mount: what is opened below must be opened for this container alone.
        upper, work, to = f"{base}/u{number}", f"{base}/w{number}", top + str(path)
        lines.append(f"mkdir -p {q(upper)} {q(work)} {q(to)}")
        layers = f"lowerdir={path},upperdir={upper},workdir={work}"
        lines.append(f"mount -t overlay overlay -o {q(layers)} {q(to)}")
    lines += closing
    if plan.working_dir != "/":
        lines.append(f"mkdir -p {q(inside(plan.working_dir))}")
    become = ""
    if plan.user is not None and plan.user != 0:
        # Homes are often closed to others, and the project's Python may live in one. Only this overlay is opened.
        closed = {parent for path in needed for parent in (path, *path.parents)}
        lines += [f"chmod o+x {q(top + str(path))}" for path in sorted(closed) if not path.stat().st_mode & 0o001]
        groups = f"--groups={plan.extra_group}" if plan.extra_group is not None else "--clear-groups"
        become = f"setpriv --reuid={plan.user} --regid={plan.group or 0} {groups} -- "
    if plan.read_only_root:
        lines.append(f"mount -o remount,ro {q(top)}")
    lines.append(f'PATH=$P; exec /usr/bin/unshare --root={q(top)} --wd={q(plan.working_dir)} -- {become}"$@"')
    return "\n".join(lines)


async def _open_output() -> tuple[asyncio.StreamReader, int]:
    """Return a reader for a container's output and the descriptor to give to the container.

    The container's end can be read as well as written, so that a container whose kubelet was killed does not die of
    SIGPIPE at its next line. The reader still sees the end of the stream when the last process that holds it is gone.
    """
    read_end, write_end = os.pipe()
    both = os.open(f"/proc/self/fd/{write_end}", os.O_RDWR | os.O_CLOEXEC)
    os.close(write_end)
    reader = asyncio.StreamReader(limit=logs.MAX_LINE_BYTES)
    loop = asyncio.get_running_loop()
    # Its end is closed by the loop: uvloop does that whatever the file says, and if the file did as well, the second time could be
    # another thread's new descriptor.
    pipe = os.fdopen(read_end, "rb", buffering=0, closefd=False)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    return reader, both


class Run:
    """A started container. `wait()` returns its exit code as Kubernetes counts (128 + signal)."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        output: asyncio.StreamReader,
        log: logs.LogFile,
        cgroup: Path | None,
        pid_file: Path,
    ) -> None:
        self._process, self._log, self._cgroup, self._pid_file = process, log, cgroup, pid_file
        self.process_ended = asyncio.Event()
        """Set when the main process has ended, before `wait()` returns."""
        self._pump = asyncio.create_task(log.fill_from(output))

    @classmethod
    async def start(cls, plan: Plan, box: Sandbox, container: str, run: int, log: logs.LogFile) -> Run:
        """Start the program. Raises OSError if not even the shell around it can be started."""
        directory = box.directory / container
        root_dir = directory / "root"
        root_dir.mkdir(parents=True, exist_ok=True)
        cgroup = box.cgroup(container, run)
        if cgroup is not None and not processes.create_cgroup(cgroup):
            cgroup = None
        output, stdout = await _open_output()
        try:
            process = await asyncio.create_subprocess_exec(
                "/usr/bin/nsenter", f"--net={box.netns_path}", "--", "/usr/bin/unshare", "--mount", "--uts", "--",
                "/bin/sh", "-ec", build_script(plan, root_dir, cgroup), "sh", *plan.argv,
                env=plan.env, cwd="/", stdin=asyncio.subprocess.DEVNULL, stdout=stdout, stderr=stdout,
                start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(stdout)
        pid_file = directory / "pid"
        pid_file.write_text(str(process.pid))
        return cls(process, output, log, cgroup, pid_file)

    @property
    def pid(self) -> int:
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the main process; one that has ended is no error."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def wait(self) -> int:
        """Wait for the end of the main process, remove what it left running, and return the exit code. Call once."""
        code = await self._process.wait()
        self.process_ended.set()
        self._pid_file.unlink(missing_ok=True)
        if self._cgroup is not None:
            try:
                await asyncio.to_thread(processes.kill_cgroup, self._cgroup)
            except OSError as err:  # the container has ended all the same, and may start again
                print(f"cgroup of pid {self._process.pid}: {err}", flush=True)
        else:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._pump, DRAIN_S)
        self._log.close()
        return code if code >= 0 else 128 - code

    async def exec(self, argv: list[str]) -> tuple[int, str]:
        """Run a command in the container (files, network, environment) and return exit code and output."""
        process = await asyncio.create_subprocess_exec(
            "/usr/bin/nsenter", f"--target={self.pid}", "--net", "--mount", "--uts", "--root", "--wd", "--", *argv,
            env=self._environ(), stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            output, _ = await process.communicate()
            return process.returncode or 0, output.decode(errors="replace")
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()

    def _environ(self) -> dict[str, str]:
        try:
            raw = Path(f"/proc/{self.pid}/environ").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            return {"PATH": SYSTEM_PATH}
        pairs = (entry.partition("=")[::2] for entry in raw.decode(errors="replace").split("\0") if "=" in entry)
        return {"PATH": SYSTEM_PATH, **dict(pairs)}
