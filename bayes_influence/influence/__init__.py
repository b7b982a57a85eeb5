"""The estimands: how a prediction would change if the training data did."""
