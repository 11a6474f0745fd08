"""Which module reads data of which kind, by the name of the data alone: nothing is imported or opened for it.

The loaders of these kinds are imported only where such data is loaded, so that the code of all other results does not
stand on them. Whatever fingerprints a result adds `module_of(data)` to its modules. The table lies here, and not beside
the loaders, since the fingerprint of a claim is taken without torch, which `counterpoise.data` imports.
"""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Final

NAMED: Final = "data.named"
ROWS: Final = "data.rows"
ANNOTATED: Final = "data.annotated_sources"

KINDS = {"icons": NAMED, "emoji": NAMED, "rows": ROWS, "sklearn": ROWS, "scenes": ANNOTATED}
"""What stands before the first colon of a name, and the module below `counterpoise` that reads such data."""

ROW_OPTIONS = ("label", "labels", "columns", "categories", "factors")
"""What may follow a file of rows, each after a colon: `wine.csv:label=quality`."""

OPTION = re.compile(r":(?=[a-z]+=)")
MATRIX, ANNOTATIONS = ".npy", ".json"  # the endings of files that no other loader reads


def module_of(data: str | PurePath) -> str | None:
    """The module that reads data of this name, such as "data.named"; None where `data.sources` itself does.

    Args:
        data: a name or a path, as `--data` takes it. A folder's name says nothing of what lies in it: for folders of
            users, see `data.sources.loader_of`.

    Examples:
        >>> module_of("icons:themes=tango,gnome"), module_of("sklearn:wine"), module_of("wine.csv:label=quality")
        ('data.named', 'data.rows', 'data.rows')
        >>> module_of("scenes:count=10"), module_of("features.npy"), module_of("fashion-mnist"), module_of("all.csv")
        ('data.annotated_sources', 'data.rows', None, None)
    """
    text = str(data)
    kind = text.partition(":")[0]
    if kind in KINDS:
        return KINDS[kind]
    path, *options = OPTION.split(text)
    ending = PurePath(path).suffix.lower()
    if ending == MATRIX or (options and all(option.partition("=")[0] in ROW_OPTIONS for option in options)):
        return ROWS
    return ANNOTATED if ending == ANNOTATIONS and not options else None
