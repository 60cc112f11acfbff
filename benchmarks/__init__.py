"""Speed, as ratios against bare loops measured in the same run. ``make bench`` prints the table."""
