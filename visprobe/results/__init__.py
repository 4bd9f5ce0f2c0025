"""What measurements return: numbers with their intervals, how they are shown, and the sentences that rest on them."""
