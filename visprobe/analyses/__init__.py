"""One file per question: features in, a Result out."""
