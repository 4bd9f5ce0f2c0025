"""What stands beside images: classes, targets, captions, masks."""
