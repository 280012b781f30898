"""One layer of a chosen shape for a region and its activations, by least squares."""
