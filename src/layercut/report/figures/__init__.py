"""Figures of reports: Vega-Lite specifications, drawn by the page, and as PNG for Markdown."""
