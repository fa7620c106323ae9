"""Token budgets, rules for prompts and fallbacks in front of language models. `plugin.yaml` says how it is configured."""

from .plugin import LlmGuard

__all__ = ["LlmGuard"]
