"""The learning rate before and during training: the page draws what the loop will do."""

import math

import pytest

from builder.parts.training import SCHEDULES
from builder.schedule import Plateau, factor, rates
from builder.spec import Choice

EPOCHS, STEPS = 10, 7


@pytest.mark.parametrize("name", SCHEDULES.names)
def test_every_schedule_gives_a_usable_rate_at_every_step(name: str) -> None:
    found = rates(Choice(name=name), 0.1, EPOCHS, STEPS)
    assert len(found) == EPOCHS * STEPS
    assert all(0 < rate <= 0.1 + 1e-12 for rate in found)


def test_a_constant_rate_stays() -> None:
    assert set(rates(Choice(name="constant"), 0.1, EPOCHS, STEPS)) == {0.1}


def test_the_step_schedule_drops_after_whole_epochs() -> None:
    choice = Choice(name="step", params={"every_epochs": 3, "factor": 0.5})
    assert [factor(choice, epoch * STEPS, EPOCHS, STEPS) for epoch in range(7)] == [1, 1, 1, 0.5, 0.5, 0.5, 0.25]
    assert factor(choice, 3 * STEPS - 1, EPOCHS, STEPS) == 1


def test_the_cosine_falls_from_full_to_what_is_to_be_left() -> None:
    found = rates(Choice(name="cosine", params={"final_fraction": 0.2}), 1.0, EPOCHS, STEPS)
    assert found[0] == 1 and found == sorted(found, reverse=True)
    assert found[-1] == pytest.approx(0.2, abs=0.001)


def test_the_cosine_climbs_first_when_asked_to() -> None:
    found = rates(Choice(name="cosine", params={"warmup_epochs": 2}), 1.0, EPOCHS, STEPS)
    assert found[: 2 * STEPS] == sorted(found[: 2 * STEPS]) and found[2 * STEPS] == 1
    assert all(rate > 0 for rate in rates(Choice(name="cosine", params={"warmup_epochs": 100}), 1.0, 3, 2))


def test_one_cycle_climbs_to_the_full_rate_and_ends_far_below_its_start() -> None:
    found = rates(Choice(name="one_cycle", params={"rise_fraction": 0.3, "start_divisor": 25.0}), 1.0, EPOCHS, STEPS)
    top = found.index(max(found))
    assert found[0] == pytest.approx(1 / 25) and max(found) == pytest.approx(1, abs=0.01)
    assert 0.25 < top / len(found) < 0.35
    assert found[-1] < found[0] / 100


@pytest.mark.parametrize(("epochs", "steps"), [(1, 1), (2, 1), (1, 2)])
def test_one_cycle_over_fewer_than_three_steps_uses_the_full_rate(epochs: int, steps: int) -> None:
    assert rates(Choice(name="one_cycle"), 0.1, epochs, steps) == [0.1] * (epochs * steps)


def test_what_one_cycle_does_in_a_whole_run_is_written_down() -> None:
    found = rates(Choice(name="one_cycle", params={"rise_fraction": 0.25, "start_divisor": 20.0}), 1.0, 3, 4)
    assert found[0] == pytest.approx(0.05) and found[1] == pytest.approx(0.525) and found[2] == 1
    assert found[-1] == pytest.approx(0.05 / 1e4)


@pytest.mark.parametrize("name", SCHEDULES.names)
@pytest.mark.parametrize(("epochs", "steps"), [(1, 1), (2, 1), (3, 1), (3, 2), (EPOCHS, STEPS), (30, 11)])
def test_what_the_page_draws_is_what_training_does(name: str, epochs: int, steps: int) -> None:
    import torch

    from builder import optim

    params = {"cosine": {"warmup_epochs": 1}, "step": {"every_epochs": 2}}.get(name, {})
    choice = Choice(name=name, params=params)
    sgd = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    real = optim.Schedule(choice, sgd, steps, epochs)
    drawn = rates(choice, 0.1, epochs, steps)
    assert drawn == pytest.approx([real.set_rate(step) for step in range(epochs * steps)], rel=1e-9)


def test_a_plateau_drops_the_rate_only_after_the_wait_and_goes_on_from_a_saved_state() -> None:
    losses = [1.0, 0.9, 0.91, math.nan, 0.9, 0.8, 0.85, 0.85, 0.85]
    whole = Plateau(wait_epochs=2, factor=0.1)
    told = [whole.after(loss) for loss in losses]
    assert told == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.01])
    for cut in range(len(losses)):
        first, second = Plateau(wait_epochs=2, factor=0.1), Plateau(wait_epochs=2, factor=0.1)
        [first.after(loss) for loss in losses[:cut]]
        second.restore(first.state())
        assert [second.after(loss) for loss in losses[cut:]] == told[cut:]
