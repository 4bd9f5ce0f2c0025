"""One file per figure: a Result in, a matplotlib Figure out. Nothing is computed here."""
