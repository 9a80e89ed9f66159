"""From whatever holds an image to the tensor that a network was trained on."""
