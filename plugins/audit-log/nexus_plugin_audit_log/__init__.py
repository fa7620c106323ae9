"""One line for each request, each bound to the one before. `plugin.yaml` says how it is configured."""

from .chains import Break, verify
from .plugin import AuditLog

__all__ = ["AuditLog", "Break", "verify"]
