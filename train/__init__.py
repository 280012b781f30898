"""Learn which activations of a network can go, and train what is left. Command: ``layer-folding prefold``."""
