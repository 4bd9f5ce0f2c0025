"""What every analysis is made of: the contract, the registry, estimates and pairs of checkpoints."""
