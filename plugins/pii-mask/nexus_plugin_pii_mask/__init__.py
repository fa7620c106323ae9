"""Personal data masked in events, messages, bodies and log lines. `plugin.yaml` says how it is configured."""
