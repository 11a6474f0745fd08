"""Scenes that are made once and kept."""

import torch

from annotated import COUNT
from counterpoise.data.scenes import COLOURS, DOMAINS, PREDICATES


def test_scenes_are_kept_as_they_are_made(made, data):
    assert len(data) == COUNT
    for i in range(COUNT):
        scene, found = made[i], data.objects(torch.tensor([i]))
        assert torch.equal(data.pixels[i], scene.image)
        assert torch.equal(data.maps[i].long(), scene.semantic)
        assert torch.equal(found.masks, scene.masks)
        assert torch.equal(found.areas, scene.masks.sum((1, 2)))
        for ours, theirs in zip(
            (found.boxes, found.labels, found.attributes["colour"], found.relations),
            (scene.boxes, scene.labels, scene.colours, scene.relations),
            strict=True,
        ):
            assert torch.equal(ours, theirs)
        assert found.attributes["depth"].tolist() == list(range(len(scene.labels)))
        assert data.captions[i] == scene.caption
        assert data.factor_names["domain"][data.factors["domain"][i]] == scene.domain
    assert data.predicates == PREDICATES
    assert data.attribute_names == {"colour": tuple(COLOURS)}
    assert data.factor_names == {"domain": tuple(DOMAINS)}
