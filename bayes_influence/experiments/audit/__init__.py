"""The audit: influence estimates held against retraining, stage by stage."""
