"""Momentum encoders: the average by hand and beside torch's own, the three ways with buffers, refusals by name."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from counterpoise.contrast.hydra import Hydra
from counterpoise.contrast.moco import MoCo
from counterpoise.errors import InputError
from counterpoise.nets.momentum import momentum_copy, update_momentum_encoder


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def seen(net, seed):
    """The same net after a batch in training mode, which its batch normalisation notes."""
    net.train()(torch.randn(8, 3, generator=torch.Generator().manual_seed(seed)))
    return net


def test_a_copy_has_the_same_weights_and_mode_and_no_gradient():
    online = seen(net(), 1).eval()
    slow = momentum_copy(online)
    assert all(torch.equal(x, online.state_dict()[name]) for name, x in slow.state_dict().items())
    assert not any(module.training for module in slow.modules())
    assert not any(p.requires_grad for p in slow.parameters())
    assert all(p.requires_grad for p in online.parameters())
    with torch.no_grad():
        slow[0].weight.add_(1)
    assert not torch.equal(slow[0].weight, online[0].weight)


@pytest.mark.parametrize("decay", [0, 0.25, 0.99, 1])
def test_weights_move_by_their_share_and_have_the_bits_of_lerp(decay):
    online, slow = net(0), momentum_copy(net(1))
    before, kept = copy.deepcopy(slow), copy.deepcopy(online.state_dict())
    update_momentum_encoder(online, slow, decay)
    for old, new, target in zip(before.parameters(), slow.parameters(), online.parameters(), strict=True):
        torch.testing.assert_close(new, decay * old + (1 - decay) * target)
        assert torch.equal(new, torch.lerp(old, target, 1 - decay))
        assert not new.requires_grad
    assert all(torch.equal(x, kept[name]) for name, x in online.state_dict().items())


def test_many_steps_are_those_of_torch_s_averaged_model():
    online = net()
    slow = momentum_copy(online)
    oracle = AveragedModel(online, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    oracle.update_parameters(online)  # the first call copies
    for seed in range(4):
        with torch.no_grad():
            for parameter in online.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))
        seen(online, seed)
        update_momentum_encoder(online, slow, 0.9, buffers="average")
        oracle.update_parameters(online)
    for (name, mine), theirs in zip(slow.state_dict().items(), oracle.module.state_dict().values(), strict=True):
        if mine.is_floating_point():
            torch.testing.assert_close(mine, theirs, msg=name)
    assert slow[1].num_batches_tracked == 4


@pytest.mark.parametrize("buffers", ["own", "copy", "average"])
def test_buffers_stay_or_are_copied_or_averaged(buffers):
    online, slow = seen(net(), 1), seen(momentum_copy(net()), 2)
    seen(online, 3)
    mine, theirs = slow[1].running_mean.clone(), online[1].running_mean.clone()
    update_momentum_encoder(online, slow, 0.75, buffers=buffers)
    expected = {"own": mine, "copy": theirs, "average": torch.lerp(mine, theirs, 0.25)}
    assert torch.equal(slow[1].running_mean, expected[buffers])
    assert slow[1].num_batches_tracked == (1 if buffers == "own" else 2)
    assert torch.equal(online[1].running_mean, theirs)


@pytest.mark.parametrize("kind", [MoCo, Hydra])
def test_methods_move_encoder_and_head_alike_and_leave_buffers(kind):
    class Encoder(nn.Sequential):
        features = 4

    def encoder():
        return Encoder(nn.Flatten(), nn.Linear(9, 4), nn.BatchNorm1d(4))

    torch.manual_seed(0)
    options = {"queue": 8} if kind is MoCo else {"samples": 4, "classes": 2, "instance": 1.0}
    method = kind(encoder(), momentum=0.75, **options)
    with torch.no_grad():
        for parameter in [*method.encoder.parameters(), *method.head.parameters()]:
            parameter.add_(1.0)
    pairs = [(method.key_encoder, method.encoder), (method.key_head, method.head)]
    before = [(copy.deepcopy(slow), copy.deepcopy(online)) for slow, online in pairs]
    generator = torch.Generator().manual_seed(0)
    views = [torch.randn(4, 1, 3, 3, generator=generator) for _ in range(2)]
    method.loss(views, torch.tensor([0, 1, 0, 1]), torch.arange(4))
    for (slow, _), (old, online) in zip(pairs, before, strict=True):
        for new, was, target in zip(slow.parameters(), old.parameters(), online.parameters(), strict=True):
            assert torch.equal(new, torch.lerp(was, target, 0.25))
    seen_by_keys = [views[1]] if kind is MoCo else views
    own = before[0][0].train()
    with torch.no_grad():  # its statistics are of its own new weights' batches, not the trained net's
        for mine, new in zip(own.parameters(), method.key_encoder.parameters(), strict=True):
            mine.copy_(new)
    for view in seen_by_keys:
        own(view)
    assert torch.equal(method.key_encoder[2].running_mean, own[2].running_mean)
    assert not torch.equal(method.key_encoder[2].running_mean, method.encoder[2].running_mean)


@pytest.mark.usefixtures("plain_shapes")
def test_bad_input_is_refused_by_name_and_changes_nothing():
    online, slow = net(0), momentum_copy(net(1))
    before = copy.deepcopy(slow.state_dict())
    for decay in (-0.1, 1.5):
        with pytest.raises(InputError, match=f"decay: expected a number of at least 0 and of at most 1, got {decay}"):
            update_momentum_encoder(online, slow, decay)
    with pytest.raises(InputError, match="buffers 'mine' is not known"):
        update_momentum_encoder(online, slow, 0.5, buffers="mine")
    wider = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    with pytest.raises(InputError, match=r"momentum_encoder: .* got others for 2\.weight, 2\.bias$"):
        update_momentum_encoder(wider, slow, 0.5)
    with pytest.raises(InputError, match=r"momentum_encoder: .* got others for 0\.bias$"):
        update_momentum_encoder(nn.Sequential(nn.Linear(3, 4, bias=False), *online[1:]), slow, 0.5)
    plain = nn.Sequential(online[0], nn.BatchNorm1d(4, track_running_stats=False), online[2])
    with pytest.raises(InputError, match=r"got others for 1\.running_mean, 1\.running_var, 1\.num_batches_tracked"):
        update_momentum_encoder(plain, copy.deepcopy(slow), 0.5, buffers="copy")
    assert all(torch.equal(x, before[name]) for name, x in slow.state_dict().items())


def test_a_copy_of_another_precision_follows_as_one_of_the_same():
    online, slow = net(0), momentum_copy(net(1))
    exact = copy.deepcopy(slow).double()
    update_momentum_encoder(online, slow, 0.5, buffers="average")
    update_momentum_encoder(online, exact, 0.5, buffers="average")
    for name, x in exact.state_dict().items():
        assert x.dtype in (torch.float64, torch.int64)
        torch.testing.assert_close(x, slow.state_dict()[name].to(x.dtype))
