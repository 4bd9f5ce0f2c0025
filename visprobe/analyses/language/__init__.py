"""How do vision features lie among language: captions, words of the model's own vocabulary?"""
