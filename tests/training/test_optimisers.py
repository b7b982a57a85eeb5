import pytest
import torch

from bayes_influence.training.optimisers import SGD, Adam, clipped


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Adam(), lambda p, lr: torch.optim.Adam(p, lr=lr)),
        (Adam((0.5, 0.9), 1e-4), lambda p, lr: torch.optim.Adam(p, lr=lr, betas=(0.5, 0.9), eps=1e-4)),
        (SGD(), lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9)),
        (SGD(0.0), lambda p, lr: torch.optim.SGD(p, lr=lr)),
    ],
)
def test_members_step_as_torch_steps_each_alone(ours, theirs):
    start = torch.randn(2, 5, dtype=torch.float64)
    rates = torch.tensor([0.1, 0.03], dtype=torch.float64)
    scale = torch.arange(1.0, 6.0, dtype=torch.float64)
    alone = []
    for row, rate in zip(start, rates, strict=True):
        parameter = torch.nn.Parameter(row.clone())
        optimiser = theirs([parameter], float(rate))
        for _ in range(7):
            optimiser.zero_grad()
            (scale * parameter.square()).sum().backward()
            optimiser.step()
        alone.append(parameter.detach())
    flat, state = start.clone(), ours.start(start)
    for _ in range(7):
        ours.step(flat, 2 * scale * flat, rates, state)
    torch.testing.assert_close(flat, torch.stack(alone))


def test_long_gradients_are_shortened_and_short_ones_left_alone():
    gradient = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    expected = torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]])
    torch.testing.assert_close(clipped(gradient, 1.0), expected)


def test_settings_out_of_range_are_refused():
    assert Adam((0.0, 0.0)).betas == (0.0, 0.0)
    for betas, epsilon in (((-0.1, 0.9), 1e-8), ((0.9, 1.0), 1e-8), ((0.9, 0.9), 0.0)):
        with pytest.raises(ValueError, match="Adam needs betas"):
            Adam(betas, epsilon)
    with pytest.raises(ValueError, match=r"betas in \[0, 1\) and epsilon > 0, got \(1.0, 0.9\)"):
        Adam((1.0, 0.9))
    with pytest.raises(ValueError, match="momentum must lie in"):
        SGD(1.0)
