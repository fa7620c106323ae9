"""Rewrites every generated file of the repository; `--check` only says what is out of date (exit 1).

Each entry is a command of the room that owns the file, so this script knows no formats.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

GENERATORS: dict[str, tuple[str, ...]] = {
    "crds/ and docs/reference/crds.md": (
        "-m",
        "nexus_core.model.crds",
        "crds",
        "--reference",
        "docs/reference/crds.md",
    ),
    "charts/nexus/crds/": ("scripts/copies.py", "crds", "charts/nexus/crds"),
    "docs/reference/hooks.md": ("-m", "nexus_core.hooks.reference", "docs/reference/hooks.md"),
    "docs/reference/cli.md": ("-m", "nexus_cli.reference", "docs/reference/cli.md"),
}


def main() -> int:
    check = "--check" in sys.argv[1:]
    failed = []
    for what, argv in GENERATORS.items():
        done = subprocess.run((sys.executable, *argv, *(["--check"] if check else [])), cwd=ROOT, check=False)
        if done.returncode:
            failed.append(what)
    if failed:
        sys.stderr.write(
            f"{'out of date' if check else 'could not generate'}: {', '.join(failed)}; run: make generate\n"
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
