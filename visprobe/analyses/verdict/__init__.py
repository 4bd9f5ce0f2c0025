"""What follows from the results, in sentences that claim no more than their intervals."""
