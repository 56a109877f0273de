"""Cut models in other people's programs"""
