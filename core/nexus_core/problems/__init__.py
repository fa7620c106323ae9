"""What is wrong with an object, as a value: who, where, why, and how to fix it."""

from nexus_core.problems.problem import ObjectRef, Problem, sort_problems

__all__ = ["ObjectRef", "Problem", "sort_problems"]
