"""Pruned models in other people's programs"""
