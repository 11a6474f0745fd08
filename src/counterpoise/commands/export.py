"""A trained encoder as a file for other programs."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from counterpoise.data.views import to_float
from counterpoise.errors import InputError, MissingExtra
from counterpoise.files import check_output, output
from counterpoise.tasks import load_encoder
from counterpoise.tasks.weights import EARLIER, NET, net_bytes, net_metadata

TOLERANCE = 1e-4


def export(run: str, out: str, *, normalized_input: bool = False) -> Path:
    """Write the encoder of a run as `.safetensors` or `.onnx`.

    The ONNX file takes float32 pixels from 0 to 255, in batches of any length, and is kept only if onnxruntime gives
    the same features as PyTorch to 1e-4. The weights in the safetensors file are those of the PyTorch module, which
    takes pixels from -1 to 1 (x / 127.5 - 1 of a byte x). Both carry in their metadata what they take: `shape`,
    `channels`, `height`, `width` and `pixel_range`; and `classes`, `method`, `data`, `seed` and `version`.

    Args:
        run: folder of a finished run, from `train` or below `runs/` of a comparison.
        out: the file to write; its ending decides the format.
        normalized_input: let the ONNX file take pixels from -1 to 1, too, and leave the scaling to its user.

    Returns:
        The path of the file.

    Raises:
        InputError: for a folder without a run, another file ending, a file that is not ours to replace or lies in the
            run's folder, a missing extra, or an ONNX file that differs.
    """
    source, target = Path(run), Path(out)
    if target.suffix not in (".safetensors", ".onnx"):
        raise InputError(f"out: expected a name that ends in .safetensors or .onnx, got '{out}'")
    if source.resolve() in target.resolve().parents:
        raise InputError(f"out: {target} lies in the folder of the run itself; choose a place outside {source}")
    check_output(target, [source / NET, source / EARLIER])
    encoder, config = load_encoder(source)
    if target.suffix == ".safetensors":
        with output(target) as aside:
            aside.write_bytes(net_bytes(encoder, net_metadata(config, config)))
    else:
        metadata = net_metadata(config, config, (-1, 1) if normalized_input else (0, 255))
        with output(target) as aside:
            to_onnx(encoder, config["shape"], aside, metadata, normalized_input)
    return target


class FromPixels(nn.Module):
    """An encoder with the scaling inside that it is trained with: pixels from 0 to 255 to features."""

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch features"]:
        """Return the features of each image."""
        return self.encoder(pixels / 127.5 - 1)


def to_onnx(
    encoder: nn.Module, shape: list[int], path: Path, metadata: dict[str, str], normalized_input: bool = False
) -> None:
    """Write `encoder` as ONNX for images of `shape`, and check it against onnxruntime.

    Args:
        encoder: from pixels from -1 to 1, [B channels height width], to features.
        shape: channels, height and width.
        path: the file.
        metadata: goes into the file's `metadata_props`.
        normalized_input: whether the file, too, takes pixels from -1 to 1, and not from 0 to 255.

    Raises:
        MissingExtra: if onnx or onnxruntime is not installed.
        InputError: if a feature differs by more than 1e-4.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingExtra("onnxruntime", "onnx") from error
    pixels = torch.randint(0, 256, (3, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    example = to_float(pixels) if normalized_input else pixels.float()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            encoder if normalized_input else FromPixels(encoder).eval(),
            (example,),
            input_names=["images"],
            output_names=["features"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props.update(metadata)
    program.save(path, external_data=False)
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = encoder(to_float(pixels))
    for count in (3, 2):
        (found,) = session.run(None, {"images": example[:count].numpy()})
        gap = float((torch.from_numpy(found) - expected[:count]).abs().max())
        if not gap <= TOLERANCE:
            raise InputError(
                f"{path.name}: onnxruntime's features differ from PyTorch's by {gap:.1e}, above {TOLERANCE:g}"
            )
