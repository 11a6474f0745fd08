"""Backbones by every kind of name: shape, gradient, evaluation, and refusals that name what is wrong."""

import copy
import re
import ssl
import subprocess
import sys
import urllib.error
import warnings
from pathlib import Path

import pytest
import timm
import torch
from torchvision import models

from counterpoise.errors import InputError
from counterpoise.nets import backbone
from counterpoise.nets.backbones import parse_backbone

KINDS = [
    ("small", 1, 28, 320),
    ("small", 3, 32, 320),
    ("small:last", 1, 28, 128),
    ("timm:resnet10t", 3, 32, 512),
    ("resnet10t", 1, 28, 512),
    ("timm:vit_tiny_patch16_224", 1, 32, 192),
    ("torchvision:resnet18", 1, 28, 512),
    ("torchvision:mobilenet_v3_small", 1, 32, 576),
    ("torchvision:squeezenet1_1", 3, 32, 512),
    ("squeezenet1_0", 1, 32, 512),
    ("torchvision:shufflenet_v2_x0_5", 4, 32, 1024),
]


@pytest.mark.parametrize(("name", "channels", "size", "features"), KINDS)
def test_every_kind_of_name(name, channels, size, features):
    """The promised features; a gradient for every parameter; in evaluation, no influence of the batch."""
    torch.manual_seed(0)
    net = backbone(name, channels, size)
    images = torch.randn(3, channels, size, size)
    assert net.training
    assert net.features == features
    output = net(images)
    assert output.shape == (3, features)
    (output * torch.randn_like(output)).sum().backward()
    assert [path for path, p in net.named_parameters() if p.grad is None] == []
    net.eval()
    with torch.no_grad():
        batch, alone = net(images), net(images[:1])
    assert torch.equal(batch, net(images))
    torch.testing.assert_close(batch[:1], alone, atol=1e-4, rtol=1e-4)


def test_the_seed_decides_the_weights():
    nets = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        nets.append(backbone("small", 1, 28).state_dict()["model.stages.0.0.weight"])
    assert torch.equal(nets[0], nets[1])
    assert not torch.equal(nets[0], nets[2])


def test_small_learns():
    """Vertical against horizontal stripes at random phases: the loss falls to nearly nothing in 20 steps."""
    torch.manual_seed(0)
    wave = torch.sin(torch.arange(28) * 1.3 + torch.rand(32, 1) * 6.28)
    stripes = wave[:, None, None, :].expand(-1, 1, 28, 28)
    images = torch.cat([stripes[:16], stripes[16:].mT])
    targets = torch.arange(32) // 16
    net = torch.nn.Sequential(backbone("small", 1, 28), torch.nn.Linear(320, 2))
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(20):
        loss = torch.nn.functional.cross_entropy(net(images), targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.05


def test_small_sees_every_pixel():
    torch.manual_seed(0)
    images = torch.randn(1, 1, 28, 28, requires_grad=True)
    net = backbone("small", 1, 28).eval()
    net(images).square().sum().backward()
    assert (images.grad != 0).all()


def test_torchvision_resnets_of_small_images_keep_their_resolution():
    """Up to 64 pixels the last map is an eighth of the image, beyond it a thirty-second."""
    maps = []
    for size in (64, 96):
        net = backbone("torchvision:resnet18", 3, size).eval()
        net.model.layer4.register_forward_hook(lambda module, inputs, output: maps.append(output.shape[-1]))
        net(torch.zeros(1, 3, size, size))
    assert maps == [8, 3]


@pytest.mark.slow
def test_small_needs_neither_library():
    code = "import sys; from counterpoise.nets import backbone; backbone('small', 1, 28); print('timm' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("smal", "backbone 'smal' is not known; did you mean 'small'"),
        ("resnt18", "did you mean 'resnet18'"),
        ("torchvision:resnt18", "did you mean 'torchvision:resnet18'"),
        ("tim:resnet10t", "did you mean 'timm:resnet10t'"),
        ("timm:small", "backbone 'timm:small' is not known"),
        ("", "backbone '' is not known. Known: small, small:last, timm:MODEL, torchvision:MODEL"),
    ],
)
def test_an_unknown_name_gets_the_nearest(name, message):
    with pytest.raises(InputError, match=message):
        backbone(name, 3, 32)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("timm:inception_v3", 28),
        ("torchvision:alexnet", 28),
        ("torchvision:densenet121", 16),
        ("torchvision:vit_b_16", 28),
    ],
)
def test_too_few_pixels_name_the_model_and_the_size(name, size):
    with pytest.raises(
        InputError, match=f"backbone '{name}': images of {size}x{size} pixels and 3 channels do not fit"
    ):
        backbone(name, 3, size)


def test_patches_that_would_leave_pixels_unseen_are_refused():
    with pytest.raises(
        InputError, match=r"images of 28x28 pixels .* patches of 16x16 pixels would leave a rest unseen"
    ):
        backbone("timm:vit_tiny_patch16_224", 1, 28)


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("channels", "size", "name", "got"), [(0, 28, "channels", "0"), (1, 0, "size", "0"), (1, 2.0, "size", "2")]
)
def test_other_than_whole_numbers_of_channels_and_pixels_are_refused(channels, size, name, got):
    with pytest.raises(InputError, match=f"{name}: expected a whole number of at least 1, got {got}"):
        backbone("small", channels, size)


@pytest.mark.parametrize("shape", [(2, 3, 28, 28), (28, 28)])
@pytest.mark.usefixtures("plain_shapes")
def test_images_of_other_channels_are_refused(shape):
    net = backbone("small", 1, 28)
    with pytest.raises(InputError, match=r"images: expected \[batch, 1, height, width\], got shape"):
        net(torch.zeros(shape))


# --- a name and a file ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("small", ("small", None)),
        ("resnet50@w.safetensors", ("resnet50", Path("w.safetensors"))),
        ("timm:resnet50.a1_in1k@runs/big", ("timm:resnet50.a1_in1k", Path("runs/big"))),
        ("small@mail@home.pt", ("small", Path("mail@home.pt"))),
        ("small@~/w.pt", ("small", Path.home() / "w.pt")),
    ],
)
def test_a_backbone_and_its_file(text, expected):
    assert parse_backbone(text) == expected


@pytest.mark.parametrize("text", ["", "@w.pt", "resnet50@", "@"])
def test_half_a_backbone_and_its_file_is_refused(text):
    with pytest.raises(InputError, match=f"backbone: expected BACKBONE or BACKBONE@FILE, .* got '{text}'"):
        parse_backbone(text)


# --- weights of timm and torchvision ---


@pytest.fixture
def torchvision_file(tmp_path, monkeypatch):
    """Puts weights where torchvision looks for those that it has downloaded."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)

    def put(name, content):
        file = models.get_model_weights(name).DEFAULT.url.rpartition("/")[2]
        torch.save(content, tmp_path / "hub" / "checkpoints" / file)

    return put


def random_weights(name, **options):
    torch.manual_seed(7)
    return models.get_model(name, weights=None, **options).state_dict()


def rest(state, but=("fc.", "classifier.", "heads.", "conv1.", "features.0.0.", "AuxLogits.")):
    """All tensors but those of the classifier and of the first convolution."""
    return {name: x for name, x in state.items() if not name.startswith(but)}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [("resnet18", 65), ("mobilenet_v3_small", 32), ("densenet121", 32)])
def test_torchvision_s_weights_are_all_there(name, size, torchvision_file):
    given = random_weights(name)
    torchvision_file(name, given)
    torch.manual_seed(0)
    net = backbone(f"torchvision:{name}", 3, size, pretrained=True).model.state_dict()
    kept = {name: x for name, x in given.items() if not name.startswith(("fc.", "classifier."))}
    assert len(kept) > 60
    assert all(torch.equal(net[name], x) for name, x in kept.items())
    torch.manual_seed(0)
    other = backbone(f"torchvision:{name}", 3, size).model.state_dict()
    assert not all(torch.equal(other[name], x) for name, x in kept.items())


def test_names_of_densenet_s_old_file_are_torchvision_s_business(torchvision_file):
    """Its file says norm.1 where the model says norm1."""
    given = random_weights("densenet121")
    given = {name: x for name, x in given.items() if not name.endswith("num_batches_tracked")}
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", name): x for name, x in given.items()}
    assert old.keys() != given.keys()
    torchvision_file("densenet121", old)
    net = backbone("torchvision:densenet121", 3, 32, pretrained=True).model.state_dict()
    assert all(torch.equal(net[name], x) for name, x in given.items() if not name.startswith("classifier"))


@pytest.mark.slow
def test_one_channel_sees_grey_images_as_three_did(torchvision_file):
    torchvision_file("resnet18", random_weights("resnet18"))
    colour, grey = (backbone("torchvision:resnet18", channels, 65, pretrained=True).eval() for channels in (3, 1))
    images = torch.randn(2, 1, 65, 65)
    torch.testing.assert_close(grey(images), colour(images.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4)
    six = backbone("torchvision:resnet18", 6, 65, pretrained=True).eval()
    torch.testing.assert_close(
        six(images.expand(-1, 6, -1, -1)), colour(images.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4
    )
    five = backbone("torchvision:resnet18", 5, 65, pretrained=True).model.conv1.weight
    torch.testing.assert_close(five[:, [0, 3]], 0.6 * colour.model.conv1.weight[:, [0, 0]])


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
def test_a_changed_first_convolution_is_random_and_said_to_be(channels, torchvision_file):
    given = random_weights("resnet18")
    torchvision_file("resnet18", given)
    with pytest.warns(UserWarning, match="backbone 'resnet18': its first convolution .* starts from random weights"):
        net = backbone("torchvision:resnet18", channels, 32, pretrained=True).model
    assert net.conv1.weight.shape == (64, channels, 3, 3)
    state = net.state_dict()
    assert all(torch.equal(state[name], x) for name, x in rest(given).items())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backbone("torchvision:resnet18", channels, 32)
        backbone("torchvision:resnet18", channels, 65, pretrained=True)


@pytest.mark.slow
def test_a_transformer_s_places_are_interpolated(torchvision_file):
    given = random_weights("vit_b_32")
    places = torch.arange(7.0).repeat(7)  # a slope from left to right
    given["encoder.pos_embedding"][0, 1:] = places[:, None]
    torchvision_file("vit_b_32", given)
    net = backbone("torchvision:vit_b_32", 3, 64, pretrained=True).model
    torch.testing.assert_close(net.encoder.pos_embedding[0, 1:, 0], torch.tensor([0.0, 6.0, 0.0, 6.0]))
    assert torch.equal(net.class_token, given["class_token"])


@pytest.mark.slow
def test_classifiers_of_inner_layers_are_left_out(torchvision_file):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torchvision, on how long its random weights take
        given = random_weights("inception_v3", init_weights=False)
    torchvision_file("inception_v3", given)
    net = backbone("torchvision:inception_v3", 1, 96, pretrained=True).model.state_dict()
    assert torch.equal(net["Mixed_7c.branch1x1.conv.weight"], given["Mixed_7c.branch1x1.conv.weight"])
    summed = given["Conv2d_1a_3x3.conv.weight"].sum(1, keepdim=True)
    torch.testing.assert_close(net["Conv2d_1a_3x3.conv.weight"], summed)


class Marked:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_file_with_code_is_refused_and_not_run(torchvision_file, tmp_path):
    torchvision_file("resnet18", {**random_weights("resnet18"), "run": Marked(tmp_path / "ran")})
    with pytest.raises(InputError, match="backbone 'resnet18': its pretrained weights could not be fetched"):
        backbone("torchvision:resnet18", 3, 65, pretrained=True)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("channels", [1, 3])
def test_timm_s_weights_are_all_there(channels, monkeypatch):
    torch.manual_seed(7)
    given = timm.create_model("resnet10t").state_dict()
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *_, **__: copy.deepcopy(given))
    net = backbone("timm:resnet10t", channels, 32, pretrained=True).model.state_dict()
    first = given.pop("conv1.0.weight")
    torch.testing.assert_close(net["conv1.0.weight"], first if channels == 3 else first.sum(1, keepdim=True))
    kept = {name: x for name, x in given.items() if not name.startswith("fc.")}
    assert {*kept, "conv1.0.weight"} == {*net}
    assert all(torch.equal(net[name], x) for name, x in kept.items())


def test_without_a_network_timm_s_weights_ask_for_a_file(monkeypatch):
    for error in (FileNotFoundError("no\nnetwork"), ssl.SSLError("no network"), KeyError("no network")):

        def fails(*_, error=error, **__):
            raise error

        monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", fails)
        with pytest.raises(InputError) as caught:
            backbone("timm:resnet10t", 3, 32, pretrained=True)
        message = str(caught.value)
        assert message.startswith(
            "backbone 'resnet10t': its pretrained weights could not be fetched from timm/resnet10t."
        )
        assert "no network" in message
        assert message.endswith("without a network, give a file instead: resnet10t@FILE")
        assert "\n" not in message


def test_without_a_network_torchvision_s_weights_ask_for_a_file(torchvision_file, monkeypatch):
    def fails(*_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("torch.hub.urlopen", fails)
    with pytest.raises(InputError, match=r"fetched from https://\S+resnet18-\w+\.pth \(.*no network.*: resnet18@FILE$"):
        backbone("torchvision:resnet18", 3, 32, pretrained=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("small", "backbone 'small': this project has no pretrained weights for it; give a file: small@FILE"),
        ("timm:vit_tiny_patch16_18", "is not known"),
        ("torchvision:mnasnet0_5", None),
    ],
)
def test_models_without_weights_say_so(name, message, torchvision_file, monkeypatch):
    if message is None:  # torchvision has weights for all of its models today
        monkeypatch.setattr("torchvision.models.get_model_weights", lambda _: [])
        message = "backbone 'mnasnet0_5': torchvision has no pretrained weights for it; give a file: mnasnet0_5@FILE"
    with pytest.raises(InputError, match=message):
        backbone(name, 3, 32, pretrained=True)


@pytest.mark.slow
def test_a_model_of_timm_without_weights_says_so(monkeypatch):
    name = next(name for name in timm.list_models("resnet*") if name not in timm.list_models(pretrained=True)
                and not timm.is_model_pretrained(name))  # fmt: skip
    with pytest.raises(InputError, match=f"backbone '{name}': timm has no pretrained weights for it"):
        backbone(f"timm:{name}", 3, 32, pretrained=True)


def test_what_does_not_fit_is_not_downloaded(monkeypatch):
    def fails(*_, **__):
        raise AssertionError("downloads")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", fails)
    with pytest.raises(InputError, match="patches of 16x16 pixels would leave a rest unseen"):
        backbone("timm:vit_tiny_patch16_224", 1, 28, pretrained=True)
