#!/usr/bin/env python3
"""The Gateway API's conformance suite against Nexus, from anywhere: `tests/conformance/gateway_api/run.py --help`."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "cluster")]

from nexus_conformance.cli import main

sys.exit(main())
