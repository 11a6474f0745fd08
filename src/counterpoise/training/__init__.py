"""A run and how it is trained: its settings and folder, the training loop, several processes."""
