"""What the machine must offer, checked all at once: one answer names everything that is missing, with its remedy."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from nexus_testbed import components

_TOOLS = {
    "ip": "apt-get install iproute2",
    "nsenter": "apt-get install util-linux",
    "unshare": "apt-get install util-linux",
    "mount": "apt-get install mount",
    "etcd": "apt-get install etcd-server",
}
_OVERLAY = """
d=$(mktemp -d) && trap 'umount -l "$d"; rmdir "$d"' EXIT && mount -t tmpfs tmpfs "$d" && mkdir "$d/u" "$d/w" "$d/m" &&
mount -t overlay overlay -o "lowerdir=/,upperdir=$d/u,workdir=$d/w" "$d/m" && test -e "$d/m/bin/sh" && umount "$d/m"
"""


@dataclass(frozen=True, slots=True)
class Missing:
    """One thing the machine lacks, and how to get it."""

    what: str
    fix: str


class PreflightError(RuntimeError):
    """The machine cannot run a test cluster. The text lists everything that is missing (environment's)."""

    def __init__(self, missing: Sequence[Missing]) -> None:
        self.missing = tuple(missing)
        lines = [f"  - {m.what}\n      fix: {m.fix}" for m in missing]
        super().__init__("this machine cannot run the test cluster yet:\n" + "\n".join(lines))


def _fails(argv: list[str]) -> str | None:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    return None if done.returncode == 0 else (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]


def find_missing(component_names: Sequence[str] = ()) -> list[Missing]:
    """Return what is missing, empty if all is well. Leaves nothing behind.

    component_names: components of the cluster to come; Go is asked for only if one of them is not built yet.
    """
    missing: list[Missing] = []
    if sys.platform != "linux":
        return [Missing(f"Linux (this is {sys.platform})", "run in a Linux virtual machine")]
    tools = {tool for tool in _TOOLS if shutil.which(tool)}
    missing += [Missing(f"the program `{tool}`", _TOOLS[tool]) for tool in _TOOLS if tool not in tools]
    if os.geteuid() != 0:
        missing.append(Missing("root (network namespaces, veth and mounts need it)", "run with sudo -E"))
    elif {"ip", "unshare", "mount"} <= tools:
        in_netns = ["unshare", "--net", "--", "ip", "link", "add", "t0", "type"]
        kernel = "use a kernel with CONFIG_{0}, or in a container: run it with --privileged"
        if why := _fails(["unshare", "--net", "--", "true"]):
            missing.append(Missing(f"network namespaces ({why})", kernel.format("NET_NS")))
        else:
            if why := _fails([*in_netns, "bridge"]):
                missing.append(Missing(f"bridge devices ({why})", kernel.format("BRIDGE")))
            if why := _fails([*in_netns, "veth", "peer", "name", "t1"]):
                missing.append(Missing(f"veth devices ({why})", kernel.format("VETH")))
        if why := _fails(["unshare", "--mount", "--", "sh", "-ec", _OVERLAY]):
            missing.append(Missing(f"overlay mounts on / ({why})", kernel.format("OVERLAY_FS")))
    unbuilt = [name for name in component_names if not components.is_built(components.COMPONENTS[name])]
    if unbuilt:
        try:
            components.get_go()
        except components.BuildError as err:
            missing.append(Missing(f"a usable Go, to build {', '.join(dict.fromkeys(unbuilt))}", str(err)))
    return missing


def check(component_names: Sequence[str] = ()) -> None:
    """Raise PreflightError if anything is missing."""
    if missing := find_missing(component_names):
        raise PreflightError(missing)
