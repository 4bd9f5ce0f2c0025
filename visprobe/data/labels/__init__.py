"""Labels of images: classes, targets, captions, masks."""
