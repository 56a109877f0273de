"""report.html: a run folder as one page, offline. A new section is a function, and a name in ``page.SECTIONS``."""
