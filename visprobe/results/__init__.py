"""Results of measurements: numbers with their intervals, how they are shown, and sentences that rest on them."""
