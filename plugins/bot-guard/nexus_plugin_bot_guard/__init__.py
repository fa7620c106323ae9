"""Heuristics against unwanted bots. `plugin.yaml` says how they are configured."""

from .plugin import BotGuard

__all__ = ["BotGuard"]
