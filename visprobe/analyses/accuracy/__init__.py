"""Does the encoder see better? Accuracy without training anything but prototypes."""
