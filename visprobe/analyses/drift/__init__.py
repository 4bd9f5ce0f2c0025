"""Where in the encoder, and how far, did the representation of the same images move?"""
