"""New classes in unlabelled data: how many there are, how large they are, and which image is in which."""
