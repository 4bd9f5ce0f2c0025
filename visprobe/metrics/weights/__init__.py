"""Difference of two weight tensors: size, spectrum, sparsity of the change."""
