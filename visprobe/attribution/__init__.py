"""Attribution: maps over image tokens that explain a number which a model gives to each image."""
