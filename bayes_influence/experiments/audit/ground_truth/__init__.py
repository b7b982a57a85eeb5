"""Ground truth that is computed once and kept, a few retrainings at a time.

- `stored_refits` (`stored_refits`): what a retraining protocol returns.
- `retrain_on_subsets` (`subsets`): test losses after training on random subsets.
"""
