"""What n items can say: intervals, paired comparisons, and which items may be used for what."""
