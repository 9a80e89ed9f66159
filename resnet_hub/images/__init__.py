"""Images: decoding them safely, and transforming them to the input of a network."""
