"""Which weights changed, by how much, and in how many directions?"""
