"""What schedules in rounds check."""

from __future__ import annotations

from sigprune.base.errors import BadInput


def expect_rounds(rounds: int) -> None:
    """Make sure that there is a round.

    Raises:
        BadInput: there is none.
    """
    if rounds < 1:
        raise BadInput(f"expected at least one round, got {rounds}")
