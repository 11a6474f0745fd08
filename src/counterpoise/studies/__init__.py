"""Studies: the experiments of the papers about measuring, one file a paper; each has a function `study`."""
