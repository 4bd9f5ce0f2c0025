"""Extraction of features: one pass of encoders x images into a content-addressed, resumable feature store."""
