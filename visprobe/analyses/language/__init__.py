"""Vision features among language: captions, and words of the model's own vocabulary."""
