"""Plots of the page that need more than a section's file holds."""
