"""Synthetic scenes as annotated images: made once and kept."""

from __future__ import annotations

import torch
from torch import Tensor

from counterpoise.data.annotated import Annotated
from counterpoise.data.images import allocate
from counterpoise.data.scenes import COLOURS, DOMAINS, PREDICATES, Scenes


def from_scenes(scenes: Scenes, name: str = "scenes") -> Annotated:
    """Scenes made once and kept: `Scenes` makes each anew whenever it is asked for.

    Args:
        scenes: which; a scene's background is 0 in the map, and the one in front is the first of its objects.
        name: what the data is called.

    Returns:
        Their images, maps, objects with the attributes `colour` and `depth` (0 is in front), relations, captions, and
        the factor `domain`.

    Examples:
        >>> scenes = Scenes(5, size=48)
        >>> data = from_scenes(scenes)
        >>> torch.equal(data.maps[3].long(), scenes[3].semantic)
        True
        >>> torch.equal(data.objects(torch.tensor([3])).masks, scenes[3].masks)
        True
    """
    count, size = len(scenes), scenes.size
    pixels, maps, instances = (
        allocate((count, 3, size, size)),
        allocate((count, size, size)),
        allocate((count, size, size)),
    )
    columns: dict[str, list[Tensor]] = {key: [] for key in ("image", "labels", "boxes", "colour", "depth", "relations")}
    captions, domains, first = [], [], 0
    ends = torch.tensor([1, 0, 1])
    for i in range(count):
        scene = scenes[i]
        objects = len(scene.labels)
        numbers = torch.arange(1, objects + 1, dtype=torch.uint8)
        pixels[i] = scene.image
        instances[i] = (scene.masks * numbers[:, None, None]).amax(0)
        maps[i] = torch.cat([torch.zeros(1, dtype=torch.int64), scene.labels + 1])[instances[i].long()]
        found = (torch.full((objects,), i), scene.labels, scene.boxes, scene.colours, torch.arange(objects))
        for key, values in zip(columns, (*found, scene.relations + first * ends), strict=True):
            columns[key].append(values)
        captions.append(scene.caption)
        domains.append(list(DOMAINS).index(scene.domain))
        first += objects
    joined = {key: torch.cat(values) for key, values in columns.items()}
    return Annotated(
        pixels,
        maps,
        scenes.classes,
        name,
        image=joined["image"],
        labels=joined["labels"],
        boxes=joined["boxes"],
        relations=joined["relations"],
        attributes={key: joined[key] for key in ("colour", "depth")},
        attribute_names={"colour": tuple(COLOURS)},
        predicates=PREDICATES,
        captions=tuple(captions),
        factors={"domain": torch.tensor(domains)},
        factor_names={"domain": tuple(DOMAINS)},
        instances=instances,
        notes=(f"{count:,} scenes of {scenes.split}, seed {scenes.seed}",),
    )
