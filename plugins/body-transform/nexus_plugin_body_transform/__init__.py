"""JSON bodies made anew by JMESPath expressions. `plugin.yaml` says how it is configured."""
