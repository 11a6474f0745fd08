"""IDX files, whole and damaged."""

import gzip
import struct

import pytest
import torch

from counterpoise.data.idx import has_idx, read_idx, read_splits
from counterpoise.errors import InputError

BODY = bytes(range(24))
WHOLE = bytes([0, 0, 8, 3]) + struct.pack(">3I", 2, 3, 4) + BODY


def test_plain_and_gzipped_files(tmp_path):
    (tmp_path / "a").write_bytes(WHOLE)
    (tmp_path / "a.gz").write_bytes(gzip.compress(WHOLE))
    expected = torch.arange(24, dtype=torch.uint8).view(2, 3, 4)
    assert torch.equal(read_idx(tmp_path / "a"), expected)
    assert torch.equal(read_idx(tmp_path / "a.gz"), expected)


def test_agrees_with_torchvision(tmp_path):
    from torchvision.datasets.mnist import read_sn3_pascalvincent_tensor

    (tmp_path / "a").write_bytes(WHOLE)
    assert torch.equal(read_idx(tmp_path / "a"), read_sn3_pascalvincent_tensor(str(tmp_path / "a")))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (WHOLE[:-1], "the header says 24 bytes of data, the file holds 23"),
        (WHOLE + b"x", "the header says 24 bytes of data, the file holds 25"),
        (b"", "expected an IDX file of unsigned bytes"),
        (b"<html>", "expected an IDX file of unsigned bytes, got one that starts with b'<htm'"),
        (bytes([0, 0, 8, 3, 0]), "expected an IDX file"),
        (bytes([0, 0, 13, 1]) + struct.pack(">If", 1, 1.0), "expected an IDX file of unsigned bytes"),
    ],
)
def test_other_content_is_refused(tmp_path, content, message):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_idx(tmp_path / "a")


PACKED = gzip.compress(WHOLE)


@pytest.mark.parametrize("content", [PACKED[:-9], PACKED[:20], b"not gzip"], ids=["no checksum", "half", "other"])
def test_damaged_gzip_is_refused(tmp_path, content):
    (tmp_path / "a.gz").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.gz: cannot be read"):
        read_idx(tmp_path / "a.gz")


def test_a_set_without_one_of_its_files(tmp_path):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(WHOLE)
    assert not has_idx(tmp_path)
    with pytest.raises(InputError, match="has no IDX file with the labels of train"):
        read_splits(tmp_path, "a", (), "")


def test_labels_of_another_set(tmp_path):
    labels = bytes([0, 0, 8, 1]) + struct.pack(">I", 3) + bytes(3)
    for part in ("train", "t10k"):
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(WHOLE)
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(labels)
    with pytest.raises(
        InputError, match=r"expected as many labels as images in train, got shapes \[3\] and \[2, 3, 4\]"
    ):
        read_splits(tmp_path, "a", ("x",), "")
