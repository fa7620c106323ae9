"""`python -m nexus_testbed`: see cli.py."""

import sys

from nexus_testbed.cli import main

sys.exit(main())
