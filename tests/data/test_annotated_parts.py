"""Annotated images of several parts as one, and one part as two."""

from dataclasses import replace

import pytest

from annotated import COUNT, same, tiny
from counterpoise.data.annotated_parts import divided, join
from counterpoise.data.scenes import COLOURS
from counterpoise.errors import InputError


def test_joined_parts_are_all_there(data):
    same(join([data.rows(0, 5), data.rows(5, COUNT)]), data)
    box = replace(tiny(((1, 1, 3, 3),)), instances=None)
    both = join([box, tiny(((0, 0, 2, 2), (4, 4, 5, 5)))])
    assert both.areas.tolist() == [0, 4, 1]
    with pytest.raises(InputError, match="expected the same classes, got those of 'scenes' and 'tiny'"):
        join([data, tiny()])
    other = replace(data, attribute_names={"colour": tuple(reversed(COLOURS))})
    with pytest.raises(InputError, match="the same names for the values of attribute 'colour'"):
        join([data, other])
    assert "colour" not in join([data, replace(data, attributes={}, attribute_names={})]).attributes
    with pytest.raises(InputError, match="expected images of one shape"):
        join([tiny(), tiny(side=9)])
    with pytest.raises(InputError, match="parts: expected at least one"):
        join([])


def test_the_division_is_of_all_images_and_by_the_seed(data):
    train, test = divided(data, 0)
    assert (len(train), len(test)) == (19, 5)
    assert sorted(train.captions + test.captions) == sorted(data.captions)
    assert divided(data, 1).test.captions != test.captions
    with pytest.raises(InputError, match="tiny: has a single image"):
        divided(tiny(), 0)
