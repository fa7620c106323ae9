"""What a user can do something about."""

from __future__ import annotations

import click


class UserError(click.ClickException):
    """The command cannot go on. The text is one line: what, where, how to fix."""

    exit_code = 2


class StepFailed(UserError):
    """The command worked and what it looked at is not as it should be."""

    exit_code = 1
