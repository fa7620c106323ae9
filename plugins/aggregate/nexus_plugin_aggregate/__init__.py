"""One reply made of several upstream calls. `plugin.yaml` says how it is configured."""
