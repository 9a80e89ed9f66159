"""Training: settings, data, augmentation, the loop, and the directory of a run."""
