"""Models made from parts of others: assembled, transplanted, adapted."""
