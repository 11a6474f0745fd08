"""What methods that train on attacked images share: the attack, in evaluation mode; and what they refuse."""

import pytest
import torch
from torch import nn

from counterpoise.data import Images
from counterpoise.data.rows import Rows
from counterpoise.errors import InputError
from counterpoise.learners.attacked import AttackedClassifier
from counterpoise.ops.attacks import pgd
from worlds import Encoder, seeded


class Normalised(nn.Sequential):
    """An encoder with batch normalisation, one part of which is held in evaluation mode."""

    features = 3

    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(16, 3), nn.BatchNorm1d(3), nn.Dropout(0.5).eval())


def images():
    return 2 * torch.rand(6, 1, 4, 4, generator=seeded(3)) - 1


@pytest.mark.parametrize("start", [None, 0.03])
def test_an_attack_is_pgd_within_a_share_of_the_range_in_evaluation_mode(start):
    method, x = AttackedClassifier(Normalised(), classes=5, radius=0.05, attack_steps=3, attack_step=0.5), images()
    start = None if start is None else x + start
    torch.manual_seed(1)
    found = method.attack(x, lambda logits: logits[:, 2] - logits[:, 0], start)
    assert torch.equal(method.encoder[2].running_mean, torch.zeros(3))
    assert [part.training for part in method.encoder] == [True, True, True, False]
    net = method.net.eval()
    torch.manual_seed(1)
    expected, _ = pgd(lambda x: net(x)[:, 2] - net(x)[:, 0], x, 0.1, 3, 0.05, start=start)
    torch.testing.assert_close(found, expected)
    assert (found - x).abs().max() <= 0.1 + 1e-6
    assert all(p.grad is None for p in method.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"radius": 0}, "radius: expected a number above 0 and of at most 1, got 0"),
        ({"radius": 1.1}, "radius: expected a number above 0 and of at most 1, got 1.1"),
        ({"attack_steps": 0}, "attack_steps: expected a whole number of at least 1, got 0"),
        ({"attack_step": 0}, "attack_step: expected a number above 0, got 0"),
    ],
)
def test_bad_arguments_are_refused_by_name(changes, message):
    with pytest.raises(InputError, match=message):
        AttackedClassifier(Encoder(), 5, **changes)


def test_rows_of_numbers_and_data_without_a_label_are_refused():
    method = AttackedClassifier(Encoder(), classes=2)
    rows = Rows(torch.zeros(2, 16), torch.tensor([0, 1]), ("a", "b"), "rows")
    with pytest.raises(
        InputError, match=r"data: the radius of AttackedClassifier is a share of .* got rows of numbers"
    ):
        method.check_data(rows, 2)
    pixels = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    method.check_data(Images(pixels, torch.tensor([0, 1]), ("a", "b"), "images"), 2)
    with pytest.raises(InputError, match="labels: AttackedClassifier needs some"):
        method.check_data(Images(pixels, torch.tensor([-1, -1]), ("a", "b"), "images"), 2)
