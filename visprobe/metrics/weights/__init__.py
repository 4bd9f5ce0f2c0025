"""How do two weight tensors differ: size, spectrum, sparsity of the change?"""
