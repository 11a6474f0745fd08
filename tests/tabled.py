"""Files of rows, for the tests of what reads them."""

import numpy as np

from counterpoise.data.rows import joined_rows


def text(folder, lines, name="t.csv"):
    (folder / name).write_text("\n".join(lines) + "\n")
    return folder / name


def both(splits):
    """All rows in the order of their first number: inputs and names of classes."""
    rows = joined_rows(splits)
    order = rows.inputs[:, 0].argsort()
    return rows.inputs[order].tolist(), [rows.classes[i] if i >= 0 else None for i in rows.labels[order]]


def save(folder, matrix, labels=None, name="X"):
    np.save(folder / f"{name}.npy", matrix)
    if labels is not None:
        np.save(folder / f"{name}.labels.npy", labels)
    return folder / f"{name}.npy"
