"""Sets in the originals' files, for the tests of what reads them."""

import gzip
import struct
from pathlib import Path


def idx_set(folder: Path, train: int = 6, test: int = 4, value: int = 0) -> Path:
    """A tiny set in the originals' file names; image i has the value `value` + i and the label i mod 10."""
    folder.mkdir(parents=True)
    for part, count in (("train", train), ("t10k", test)):
        pixels = b"".join(bytes([value + i]) * 784 for i in range(count))
        header = bytes([0, 0, 8, 3]) + struct.pack(">3I", count, 28, 28)
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + pixels))
        labels = bytes([0, 0, 8, 1]) + struct.pack(">I", count) + bytes(i % 10 for i in range(count))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    return folder
