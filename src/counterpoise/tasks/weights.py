"""The network that a run keeps, as a safetensors file that another program can use."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from counterpoise.errors import InputError, printable
from counterpoise.files import written
from counterpoise.nets.weights import RUN_FILES
from counterpoise.version import __version__

NET, EARLIER = RUN_FILES
FACTS = ("shape", "classes", "value_range", "columns")  # of its data, what a user of the network must know


def save_net(path: Path, net: nn.Module, config: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Write a network's weights, with what another program must know to use it.

    Args:
        path: of the file.
        net: the network.
        config: of its run.
        facts: of its data; see `net_metadata`.
    """
    with written(path) as aside:
        aside.write_bytes(net_bytes(net, net_metadata(config, facts)))


def load_weights_of(folder: Path, net: nn.Module) -> nn.Module:
    """A network with the weights that a run kept in its folder, in evaluation mode; no code in the file is run.

    Raises:
        InputError: if they are missing or damaged, or belong to another network.
    """
    path = next((folder / name for name in (NET, EARLIER) if (folder / name).exists()), folder / NET)
    try:
        net.load_state_dict(load_file(path))
    except (SafetensorError, FileNotFoundError, RuntimeError) as error:
        raise InputError(f"{path}: damaged or missing ({str(error)[:100]})") from error
    return net.eval()


def net_bytes(net: nn.Module, metadata: dict[str, str]) -> bytes:
    """A network's weights as the content of a safetensors file.

    Written by the caller, since safetensors' own files can be read by their owner alone, whatever the umask says.
    """
    return save({name: value.contiguous() for name, value in net.state_dict().items()}, metadata=metadata)


def net_metadata(
    config: Mapping[str, Any], facts: Mapping[str, Any], pixel_range: tuple[int, int] = (-1, 1)
) -> dict[str, str]:
    """What another program must know to use a network: where it comes from, its classes, and the input it takes.

    Args:
        config: of its run.
        facts: of its data: `shape` [channels, height, width], `classes`, and `value_range` where the files held other
            numbers than bytes.
        pixel_range: the numbers that a black and a white pixel are in the network's input.

    Returns:
        Texts, since safetensors and ONNX hold nothing else; lists as JSON.

    Examples:
        >>> found = net_metadata({"method": "dcl", "seed": 0}, {"shape": [1, 28, 28], "classes": ["cat", "dog"]})
        >>> found["classes"], found["channels"], found["height"], found["pixel_range"]
        ('["cat", "dog"]', '1', '28', '[-1, 1]')
    """
    known = {"method", "task", "data", "seed"} & config.keys()
    about = {"counterpoise": config, "version": __version__, **{name: config[name] for name in sorted(known)}}
    about |= {name: facts[name] for name in FACTS if facts.get(name) is not None}
    if len(facts["shape"]) == 3:
        about |= dict(zip(("channels", "height", "width"), facts["shape"], strict=True))
        about |= {"pixel_range": list(pixel_range)}
    return {name: printable(value) if isinstance(value, str) else json.dumps(value) for name, value in about.items()}
