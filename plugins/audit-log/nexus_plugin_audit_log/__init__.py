"""One line for each request, each bound to the one before. `plugin.yaml` says how it is configured."""
