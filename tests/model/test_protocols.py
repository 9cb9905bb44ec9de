"""Protocols in which order is everything, as models, and the mistakes that each model must find."""

from __future__ import annotations

import pytest

from tests.model import copy_model, exploring, holders_model, log_model


def test_an_order_of_log_commit_and_discard_loses_data() -> None:
    """I4, I5, I8: whatever comes after what, a crash shows what was promised."""
    assert log_model.run() > 10_000


@pytest.mark.parametrize("flaw", log_model.FLAWS)
def test_a_rule_of_the_log_is_not_needed(flaw: str) -> None:
    """Without it there is a story that loses data; the model does find it."""
    with pytest.raises(exploring.Wrong):
        log_model.run(flaw)


def test_an_order_of_copying_before_writing_loses_the_copy() -> None:
    """D3, D5, D7: whatever comes after what, and whichever flush fails, no block is lost."""
    assert copy_model.run() > 10_000


@pytest.mark.parametrize("flaw", copy_model.FLAWS)
def test_a_rule_of_copying_before_writing_is_not_needed(flaw: str) -> None:
    with pytest.raises(exploring.Wrong):
        copy_model.run(flaw)


def test_a_history_comes_to_holders_that_are_not_those_who_reach_a_block() -> None:
    """I1, I3: the rules give the instances whose views reach a block, after each step."""
    for seed in range(40):
        holders_model.run(seed)


@pytest.mark.parametrize("flaw", holders_model.FLAWS)
def test_a_rule_of_holders_is_not_needed(flaw: str) -> None:
    with pytest.raises(holders_model.Wrong):
        for seed in range(40):
            holders_model.run(seed, flaw=flaw)
