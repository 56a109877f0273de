"""Statistics over items: intervals, paired comparisons, and the split into selection and report items."""
