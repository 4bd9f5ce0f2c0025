"""Images damaged, cropped or made small on purpose."""
