"""Themes of icons and packages of emoji, drawn for the tests of what reads them."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from counterpoise.data.drawings import Drawings

CONTEXTS = {"actions": "Actions", "apps": "Apps", "devices": "Devices", "odd": "Legacy"}


def drawing(key: int, size: int = 48) -> Image.Image:
    """Opaque blocks in colours drawn by the key, with a transparent edge."""
    blocks = np.random.default_rng(key).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    inner = Image.fromarray(blocks).resize((size * 5 // 6, size * 5 // 6), Image.Resampling.NEAREST).convert("RGBA")
    whole = Image.new("RGBA", (size, size))
    whole.paste(inner, (size // 12, size // 12))
    return whole


def make_theme(root: Path, folder: str, icons: dict[str, object], sizes: tuple[int, ...] = (48,)) -> Path:
    """A theme with `CONTEXT/NAME` as keys; values are a drawing's key, an image, or the `CONTEXT/NAME` of a link."""
    theme = root / folder
    places = {f"{size}x{size}/{context}": (size, word) for size in sizes for context, word in CONTEXTS.items()}
    listed = "".join(f"\n[{place}]\nSize={size}\nContext={word}\n" for place, (size, word) in places.items())
    for place in places:
        (theme / place).mkdir(parents=True, exist_ok=True)
    (theme / "index.theme").write_text(f"[Icon Theme]\nName={folder}\nDirectories={','.join(places)}\n{listed}")
    for name, what in icons.items():
        for size in sizes:
            path = theme / f"{size}x{size}" / f"{name}.png"
            if isinstance(what, str):
                path.symlink_to(theme / f"{size}x{size}" / f"{what}.png")
            else:
                (drawing(what, size) if isinstance(what, int) else what).save(path)
    return theme


def by_name(drawings: Drawings) -> dict[str, list[str]]:
    """The themes that draw each name."""
    pairs = zip(drawings.labels.tolist(), drawings.domains.tolist(), strict=True)
    found: dict[str, list[str]] = {}
    for label, domain in pairs:
        found.setdefault(drawings.names[label], []).append(drawings.domain_names[domain])
    return found


def make_package(folder: Path, vendor: str, keys: dict[str, int], **changes) -> Path:
    """An unpacked npm package: of each emoji its name, category and drawing; `changes` are made to all entries."""
    pictures = folder / "img" / vendor / "64"
    pictures.mkdir(parents=True)
    entries = []
    for i, (name, key) in enumerate(keys.items()):
        drawing(key, 64).save(pictures / f"{i}.png")
        group = {"category": ("Food & Drink", "Flags")[i % 2], "subcategory": f"kind-{i % 3}"}
        entries.append({"name": name, "short_name": name.lower(), "image": f"{i}.png", **group, **changes})
    (folder / "emoji.json").write_text(json.dumps(entries))
    return folder
