"""How well estimates agree with retraining, and whether schemes differ."""
