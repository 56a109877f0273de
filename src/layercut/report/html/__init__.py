"""report.html: a run folder as one page, offline. A new section is a file in ``sections`` and a line there."""
