"""`make plugins`: build and sign the bundled plugins, and pin the publisher's key where the repository names it.

The private key is read from `~/.config/nexus/publisher.key` (or NEXUS_PUBLISHER_KEY) and made when there is none: it
never enters the repository. With a new key the public half changes, so every file that pins the old one is rewritten.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from nexus_marketplace.publishing import PublishRefused, publish_bundled

ROOT = Path(__file__).parent.parent
INDEX = ROOT / "plugins" / "index" / "nexus_plugins"


def main() -> int:
    key = Path(os.environ.get("NEXUS_PUBLISHER_KEY") or Path.home() / ".config" / "nexus" / "publisher.key")
    pinned = (INDEX / "publisher.pub").read_text().strip()
    packages = sorted(manifest.parent for manifest in (ROOT / "plugins").glob("*/nexus_plugin_*/plugin.yaml"))
    try:
        publish_bundled(packages, INDEX, key, "nexus")
    except PublishRefused as refused:
        sys.stderr.write(f"{refused}\n")
        return 1
    now = (INDEX / "publisher.pub").read_text().strip()
    if now != pinned:
        listed = subprocess.run(("git", "grep", "-lF", pinned), cwd=ROOT, check=False, capture_output=True, text=True)
        for name in listed.stdout.split():
            path = ROOT / name
            path.write_text(path.read_text().replace(pinned, now))
            sys.stdout.write(f"pinned the new key in {name}\n")
    sys.stdout.write(f"signed {', '.join(package.name for package in packages)} with {key}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
