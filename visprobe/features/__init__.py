"""One pass: encoders x images into a content-addressed, resumable feature store."""
