"""Keeps one directory's YAML files the same as another's: `copies.py FROM TO [--check]` (exit 1 when they differ)."""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> int:
    source, target = (Path(name) for name in sys.argv[1:3])
    wanted = {path.name: path.read_bytes() for path in source.glob("*.yaml")}
    found = {path.name: path.read_bytes() for path in target.glob("*.yaml")}
    if wanted == found:
        return 0
    if "--check" in sys.argv[3:]:
        sys.stderr.write(f"{target} is not a copy of {source}\n")
        return 1
    target.mkdir(parents=True, exist_ok=True)
    for name in found.keys() - wanted.keys():
        (target / name).unlink()
    for name, data in wanted.items():
        (target / name).write_bytes(data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
