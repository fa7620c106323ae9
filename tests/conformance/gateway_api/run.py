#!/usr/bin/env python3
"""The Gateway API's conformance suite against Nexus, from anywhere: `tests/conformance/gateway_api/run.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "cluster"))

from nexus_conformance.cli import main

sys.exit(main())
