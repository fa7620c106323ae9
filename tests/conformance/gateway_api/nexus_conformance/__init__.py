"""Runs the Gateway API's conformance suite, unmodified, against Nexus on the test cluster. See docs/conformance/README.md."""
