"""The ground truth that every estimate is held against."""
