"""`python -m nexus_core.model.crds [--check] DIR [--reference FILE]`: write the definitions, or say which are out of date."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from nexus_core.model.crds.definitions import build_crds, file_name, to_yaml
from nexus_core.model.crds.reference import build_reference


def main() -> int:
    """Return the exit status: 1 when `--check` finds a difference."""
    parser = argparse.ArgumentParser(prog="python -m nexus_core.model.crds", description="Write the CRDs of Nexus.")
    parser.add_argument("directory", type=Path, help="where the CRDs are, normally crds")
    parser.add_argument("--reference", type=Path, help="also the reference page, normally docs/reference/crds.md")
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 when a file would change")
    given = parser.parse_args()
    wanted: dict[Path, str] = {given.directory / file_name(crd): to_yaml(crd) for crd in build_crds().values()}
    stale = sorted(set(given.directory.glob("*.yaml")) - set(wanted))
    if given.reference is not None:
        wanted[given.reference] = build_reference()
    changed = [path for path, text in wanted.items() if not path.exists() or path.read_text("utf-8") != text]
    if given.check:
        for path in (*changed, *stale):
            sys.stderr.write(f"{path} is out of date; run: make generate\n")
        return 1 if changed or stale else 0
    for path in changed:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted[path], "utf-8")
    for path in stale:
        path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
