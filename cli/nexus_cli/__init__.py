"""The `nexus` command. Each role's code is imported only when its command runs."""
