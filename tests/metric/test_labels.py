"""What all objectives of the room do with labels of any integer type, rows without one, and one class alone."""

import pytest
import torch

from counterpoise.classify.cross_entropy import cross_entropy
from counterpoise.errors import InputError
from counterpoise.metric.metrix import MetrixLoss
from counterpoise.metric.protonet import PrototypeLoss
from counterpoise.metric.realrag import RealRAGLoss
from counterpoise.metric.susana import ICNNLoss, icnn_quality, icnn_score
from counterpoise.metric.tcm import TCMLoss, tcm
from worlds import seeded

Z, OTHER = torch.randn(12, 5, generator=seeded(0)), torch.randn(12, 5, generator=seeded(1))
Y = torch.arange(12) % 4


def proxy_anchor(z, y):
    torch.manual_seed(0)
    return MetrixLoss("proxy-anchor", classes=4, dim=5)(z, y)


OBJECTIVES = {
    "TCMLoss": TCMLoss(),
    "PrototypeLoss": PrototypeLoss(),
    "ICNNLoss": ICNNLoss(),
    "contrastive": MetrixLoss("contrastive"),
    "multi-similarity": MetrixLoss("multi-similarity"),
    "proxy-anchor": proxy_anchor,
    "cross-entropy": cross_entropy,
    "tcm": tcm,
    "icnn_score": lambda z, y: icnn_score(z, y).score,
    "icnn_quality": icnn_quality,
}
each = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
pytestmark = pytest.mark.usefixtures("plain_shapes")


@each
@pytest.mark.parametrize("kind", [torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32, torch.uint32])
def test_every_type_of_integers_gives_the_same(objective, kind):
    assert objective(Z, Y.to(kind)).item() == objective(Z, Y).item()


@each
def test_what_is_no_integer_is_refused_by_name(objective):
    for kind in (torch.float32, torch.bool):
        with pytest.raises(InputError, match=r"(labels|targets): expected integers, got torch\.(float32|bool)"):
            objective(Z, Y.to(kind))


@each
def test_rows_without_a_label_are_left_out_and_labels_below_are_refused(objective):
    rows, labels = torch.cat([OTHER[:1], Z, OTHER[1:3]]), torch.cat([torch.tensor([-1]), Y, torch.tensor([-1, -1])])
    torch.testing.assert_close(objective(rows, labels), objective(Z, Y))
    with pytest.raises(InputError, match=r"(labels|targets): expected integers .*, got -2"):
        objective(rows, labels.where(labels >= 0, -2))


@pytest.mark.parametrize("name", ["TCMLoss", "PrototypeLoss", "ICNNLoss", "contrastive", "multi-similarity"])
def test_one_class_alone_is_refused_by_name(name):
    for labels in (torch.zeros(12).long(), torch.tensor([1] * 9 + [-1] * 3)):
        with pytest.raises(InputError, match=r"labels: expected (at least )?2 classes in the batch"):
            OBJECTIVES[name](Z, labels)


@pytest.mark.parametrize("kind", [torch.uint8, torch.uint16, torch.int32])
def test_objects_of_any_integer_type(kind):
    loss = RealRAGLoss()
    assert loss(Z, OTHER, None, Y.to(kind)).item() == loss(Z, OTHER, None, Y).item()
