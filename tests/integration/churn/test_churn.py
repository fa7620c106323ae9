"""Change without loss: every step of the churn, short. What it costs in time is reported by `make churn`, not judged here."""

from __future__ import annotations

import json

import pytest

from churn.results import measure
from churn.steps import STEPS, Pace, Step
from churn.world import World

pytestmark = [pytest.mark.connected, pytest.mark.timeout(180), pytest.mark.asyncio(loop_scope="module")]

PACE = Pace(calm_s=0.5, pause_s=0.15)
ENOUGH = 150
"""Requests below which a step would not say anything."""


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
async def test_no_request_is_lost_or_executed_twice(world: World, step: Step) -> None:
    result = await measure(world, step, PACE)
    shown = json.dumps(result.as_json(), indent=1)
    assert result.requests > ENOUGH, shown
    assert result.lost == 0, shown
    assert result.duplicated == 0, shown
    assert not result.problems, shown
