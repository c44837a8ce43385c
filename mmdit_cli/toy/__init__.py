"""The toy experiment: a small world with captions, a model that learns to draw it, and an oracle that reads it back."""
