"""How alike are two representations by other measures, and what shape has each?"""
