"""Answers from the examples of an OpenAPI document. `plugin.yaml` says how it is configured."""
