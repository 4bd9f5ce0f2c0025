"""What measurements return: numbers with their intervals, and the sentences that rest on them."""
