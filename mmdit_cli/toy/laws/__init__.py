"""How loss and score fall with the size of a network and with the FLOPs of its training."""
