"""What users import from the root: `from counterpoise import compare`."""

from __future__ import annotations

# Loaded on first use: importing torch takes seconds, which `counterpoise list` must not.
EXPORTS = {
    "Alternating": "learners.alternating",
    "ImageSettings": "training.run",
    "Images": "data.images",
    "InputError": "errors",
    "Learner": "learners.learner",
    "LearnerSettings": "training.run",
    "Method": "learners.method",
    "Run": "training.run",
    "Settings": "training.run",
    "Task": "tasks.base",
    "claim": "commands.claim",
    "compare": "commands.compare",
    "embed": "commands.embed",
    "export": "commands.export",
    "load": "data.sources",
    "make_imperfect": "data.imperfect",
    "predict": "commands.predict",
    "scenes": "commands.scenes",
    "train": "commands.train",
}
"""The module of each name, below this package."""
