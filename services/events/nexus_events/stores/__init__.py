"""Stores of the event service; each passes `tests/conformance/events`."""
