"""Does the encoder still see when images are damaged, small or cropped?"""
