"""Small networks from large ones, and one network for many number formats."""
