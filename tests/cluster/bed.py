#!/usr/bin/env python3
"""The test cluster from the command line, runnable from anywhere: `.venv/bin/python tests/cluster/bed.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from nexus_testbed.cli import main

sys.exit(main())
