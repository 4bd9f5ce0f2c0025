"""Models made of the parts of others: assembled, transplanted, adapted."""
