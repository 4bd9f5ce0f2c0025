"""Recognition of splits and classes in folders of images."""
