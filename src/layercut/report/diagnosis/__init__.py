"""The report of ``layercut diagnose``: what broke first, and a section and a plot for each diagnostic."""
