"""The command `demo`: all stages, one after the other, on images that come with scikit-learn."""
