"""What several tests of annotated images share: small ones, and whether two are the same."""

import torch

from counterpoise.data.annotated import Annotated
from counterpoise.data.annotated_parts import join

COUNT, SIDE = 24, 40


def same(a, b, but=()):
    """Whether two hold the same images, maps and objects."""
    fields = ("pixels", "maps", "image", "labels", "boxes", "instances", "relations")
    assert all(torch.equal(getattr(a, name), getattr(b, name)) for name in fields if name not in but)
    words = ("classes", "predicates", "captions", "attribute_names", "factor_names")
    assert [getattr(a, name) for name in words] == [getattr(b, name) for name in words]
    for kind in ("attributes", "factors"):
        ours, theirs = getattr(a, kind), getattr(b, kind)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def whole(splits):
    """The images of both parts in the order of their files."""
    both = join(splits)
    return both.subset(torch.tensor(sorted(range(len(both)), key=lambda i: both.paths[i])))


def tiny(filled=(), side=8, **fields):
    """One grey image of one class with objects that have these boxes, each filled by its mask."""
    instances = torch.zeros(1, side, side, dtype=torch.uint8)
    for i, (left, top, right, bottom) in enumerate(filled):
        instances[0, top:bottom, left:right] = i + 1
    count = len(filled)
    given = {
        "pixels": torch.zeros(1, 1, side, side, dtype=torch.uint8),
        "maps": (instances > 0).byte(),
        "classes": ("cat",),
        "name": "tiny",
        "image": torch.zeros(count, dtype=torch.int64),
        "labels": torch.zeros(count, dtype=torch.int64),
        "boxes": torch.tensor(filled, dtype=torch.int64).view(count, 4),
        "instances": instances,
    }
    return Annotated(**{**given, **fields})
