"""Statistics over items and what they show: intervals, paired comparisons, tests, results of studies, uses."""
