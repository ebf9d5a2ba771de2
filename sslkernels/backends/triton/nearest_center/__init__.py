"""The nearest center of every row, exactly: filter, candidates, choice."""
