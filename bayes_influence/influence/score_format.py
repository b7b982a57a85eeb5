"""What marks a file of scores; without torch, so that a file can be asked what it is at once."""

FORMAT = "bayes_influence.InfluenceScores.3"
"""In its header: that it is one, and the version of its layout."""
