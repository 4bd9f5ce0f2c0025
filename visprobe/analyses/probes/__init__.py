"""What can a linear probe read from the encoder?"""
