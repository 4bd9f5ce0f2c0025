"""Images from folders, archives, parquet shards and Hugging Face datasets."""
