"""Ports that follow the Snapshot: which there are (`plans`), who serves a TLS client (`fronts`), opening and closing (`ports`)."""
