"""Sampled stacks to a table of functions and a flame graph that is small enough to keep. Pure.

A stack is `outermost;…;innermost count` a line, as py-spy and Brendan Gregg's tools write it.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

_WIDTH = 1400
_ROW = 16
_CHARACTER = 6.6
_LEAST_RATIO = 0.002
"""Frames below this share are not drawn: they are thinner than three pixels."""

_NATIVE_LINE = re.compile(r"(?<!\.py):\d+\)$")
"""A line in C code says nothing to a reader here, and would split one function into many rows."""


@dataclass
class Node:
    """One frame under its callers. samples: with everything it calls."""

    name: str
    samples: int = 0
    children: dict[str, Node] = field(default_factory=dict)


def parse(text: str) -> list[tuple[tuple[str, ...], int]]:
    """Return (frames from the outermost, samples) of each line. Raises ValueError for a line without a count."""
    found = []
    for line in text.splitlines():
        stack, _, count = line.rpartition(" ")
        if stack:
            found.append((tuple(_NATIVE_LINE.sub(")", frame) for frame in stack.split(";")), int(count)))
    return found


def table(stacks: Iterable[tuple[tuple[str, ...], int]], rows: int) -> str:
    """Return the functions that most samples were in: `self` as the innermost frame, `total` anywhere in the stack."""
    own: Counter[str] = Counter()
    total: Counter[str] = Counter()
    samples = 0
    for frames, count in stacks:
        samples += count
        own[frames[-1]] += count
        for frame in set(frames):
            total[frame] += count
    lines = [f"{'self %':>7} {'total %':>8}  function"]
    for name, count in sorted(own.items(), key=lambda item: (-item[1], item[0]))[:rows]:
        lines.append(f"{100 * count / samples:7.2f} {100 * total[name] / samples:8.2f}  {name}")
    return "\n".join(lines) + "\n"


def tree(stacks: Iterable[tuple[tuple[str, ...], int]]) -> Node:
    """Return all stacks under one root."""
    root = Node("all")
    for frames, count in stacks:
        root.samples += count
        node = root
        for frame in frames:
            node = node.children.setdefault(frame, Node(frame))
            node.samples += count
    return root


def svg(root: Node, title: str) -> str:
    """Return the flame graph: callers below what they call, width by samples; a tooltip tells name and share."""
    boxes: list[str] = []
    deepest = _draw(root, root.samples, 0.0, 0, boxes)
    height = (deepest + 3) * _ROW
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" font-family="monospace" font-size="11">\n'
        f'<rect width="100%" height="100%" fill="#fff"/><text x="8" y="14">{html.escape(title)}</text>\n'
        f'<g transform="translate(0,{height - _ROW}) scale(1,1)">\n'
    )
    return f"{head}{''.join(boxes)}</g></svg>\n"


def _draw(node: Node, samples: int, left: float, depth: int, boxes: list[str]) -> int:
    """Add the box of a node and those above it. Returns the deepest depth drawn."""
    width = _WIDTH * node.samples / samples
    share = 100 * node.samples / samples
    name = html.escape(node.name)
    y = -depth * _ROW
    label = node.name[: int(width / _CHARACTER)] if width > 30 else ""
    text = f'<text x="{left + 2:.1f}" y="{y + 12}">{html.escape(label)}</text>' if label else ""
    boxes.append(
        f'<g><title>{name} {share:.2f} %</title><rect x="{left:.1f}" y="{y}" width="{width:.1f}" height="{_ROW - 1}" '
        f'fill="{_colour(node.name)}"/>{text}</g>\n'
    )
    deepest = depth
    for child in sorted(node.children.values(), key=lambda each: each.name):
        if child.samples >= _LEAST_RATIO * samples:
            deepest = max(deepest, _draw(child, samples, left, depth + 1, boxes))
        left += _WIDTH * child.samples / samples
    return deepest


def _colour(name: str) -> str:
    """Ours, other Python, and native code in three hues; neighbours differ a little."""
    shade = 200 + sum(name.encode()) % 40
    if "nexus_" in name:
        return f"rgb({shade},140,60)"
    if ".py" in name:
        return f"rgb({shade},{shade - 20},90)"
    return f"rgb(130,170,{shade})"
