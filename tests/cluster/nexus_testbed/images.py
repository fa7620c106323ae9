"""Which local program stands for which container image: a table of regular expressions, kept in the state directory.

The kubelet reads the table whenever it starts a container, so images can be added while the cluster runs. The first
matching row wins; rows added later are put in front.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nexus_testbed import components, places


@dataclass(frozen=True, slots=True)
class Image:
    """What running an image means here.

    argv: the entrypoint; a container's `command` replaces it, its `args` are appended.
    env: variables the image sets; the container's own win.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    working_dir: str = "/"
    needs: tuple[str, ...] = ()
    """Directories of this machine that the program is made of: no volume hides them, and every user may read them."""

    @classmethod
    def of(cls, value: Image | Sequence[str]) -> Image:
        return value if isinstance(value, Image) else cls(tuple(value))


def defaults(repository: Path = places.REPOSITORY) -> dict[str, Image]:
    """Return the images of the project: Nexus itself, the shop example, a bare Python, and the backends that the Gateway
    API's conformance suite brings its own manifests for.
    """
    bin_dir = repository / ".venv" / "bin"
    env = {"PATH": f"{bin_dir}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONUNBUFFERED": "1"}
    return {
        r"^(ghcr\.io/)?nexus/nexus(-[a-z0-9-]+)?(:|@|$)": Image((str(bin_dir / "nexus"),), env),
        r"^shop/[a-z0-9-]+(:|@|$)": Image((str(bin_dir / "python"),), env, str(repository)),
        r"^(docker\.io/library/)?python(:|@|$)": Image((str(bin_dir / "python"),), env),
        r"^registry\.k8s\.io/gateway-api/echo-basic(:|@|$)": Image((str(components.path_of(components.ECHO_BASIC)),)),
        r"^registry\.k8s\.io/coredns/coredns(:|@|$)": Image(
            (str(bin_dir / "python"), "-m", "nexus_testbed.coredns"), {**env, "PYTHONPATH": str(places.PACKAGE_PARENT)}
        ),
    }


def save(path: Path, table: Mapping[str, Image]) -> None:
    """Write the table, replacing the file at once. Raises re.error for a pattern that is none."""
    rows = []
    for pattern, image in table.items():
        re.compile(pattern)
        rows.append({"pattern": pattern, "argv": image.argv, "env": dict(image.env), "workingDir": image.working_dir,
                     "needs": image.needs})  # fmt: skip
    scratch = path.with_suffix(".tmp")
    scratch.write_text(json.dumps(rows, indent=1))
    os.replace(scratch, path)


def load(path: Path) -> dict[str, Image]:
    rows = json.loads(path.read_text())
    return {r["pattern"]: Image(tuple(r["argv"]), r["env"], r["workingDir"], tuple(r["needs"])) for r in rows}


def find(table: Mapping[str, Image], reference: str) -> Image | None:
    """Return the first row whose pattern is found in the image reference."""
    return next((image for pattern, image in table.items() if re.search(pattern, reference)), None)
