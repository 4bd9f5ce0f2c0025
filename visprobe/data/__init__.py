"""Images and labels: folders, Hugging Face datasets, and the built-in digit scenes."""
