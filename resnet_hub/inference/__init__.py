"""Images in, labels and scores out."""
