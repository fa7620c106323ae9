"""Failed requests reported to Sentry. `plugin.yaml` says how it is configured."""
