"""`python -m nexus_operator`: the operator without the `nexus` command."""

from __future__ import annotations

import os
import sys

from nexus_operator import app, settings


def main() -> None:
    """Run with the settings of the environment; status 2 when they cannot be used."""
    try:
        found = settings.from_environment(os.environ)
    except settings.SettingsInvalid as err:
        sys.stderr.write(f"{err}\n")
        sys.exit(2)
    app.run(found)


if __name__ == "__main__":
    main()
