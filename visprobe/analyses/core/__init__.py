"""What all analyses share: the contract, the registry, pairs of checkpoints, the verdict, and conditions on results."""
