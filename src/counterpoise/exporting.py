"""A trained encoder as a file for other programs."""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path

import torch
from safetensors.torch import save
from torch import nn

from counterpoise.errors import InputError, MissingExtra
from counterpoise.files import written
from counterpoise.tasks import load_encoder

TOLERANCE = 1e-4


def export(run: str, out: str) -> Path:
    """Write the encoder of a run as `.safetensors` or `.onnx`.

    The encoder takes float images in [-1, 1] (a byte x becomes x / 127.5 - 1). The ONNX file takes batches of any
    length, and is kept only if onnxruntime gives the same features as PyTorch to 1e-4.

    Args:
        run: folder of a finished run, from `train` or below `runs/` of a comparison.
        out: the file to write; its ending decides the format.

    Returns:
        The path of the file.

    Raises:
        InputError: for a folder without a run, another file ending, a missing extra, or an ONNX file that differs.
    """
    target = Path(out)
    if target.suffix not in (".safetensors", ".onnx"):
        raise InputError(f"out: expected a name that ends in .safetensors or .onnx, got '{out}'")
    encoder, config = load_encoder(Path(run))
    if target.suffix == ".safetensors":
        weights = {name: value.contiguous() for name, value in encoder.state_dict().items()}
        with written(target) as aside:
            aside.write_bytes(save(weights, metadata={"counterpoise": json.dumps(config)}))
    else:
        with written(target) as aside:
            to_onnx(encoder, config["shape"], aside)
    return target


def to_onnx(encoder: nn.Module, shape: list[int], path: Path) -> None:
    """Write `encoder` as ONNX for images of `shape`, and check it against onnxruntime.

    Raises:
        MissingExtra: if onnx or onnxruntime is not installed.
        InputError: if a feature differs by more than 1e-4.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingExtra("onnxruntime", "onnx") from error
    example = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            encoder,
            (example,),
            input_names=["images"],
            output_names=["features"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.save(path, external_data=False)
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    for batch in (example, example[:2]):
        (found,) = session.run(None, {"images": batch.numpy()})
        with torch.no_grad():
            gap = float((torch.from_numpy(found) - encoder(batch)).abs().max())
        if not gap <= TOLERANCE:
            raise InputError(
                f"{path.name}: onnxruntime's features differ from PyTorch's by {gap:.1e}, above {TOLERANCE:g}"
            )
