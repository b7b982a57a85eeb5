"""Studies, in rooms that build on one another in this order.

- `store`: the folder of a study, its cells and settings, and the runner that resumes.
- `training`: what is trained: runs in minibatches, and networks that are compared or audited.
- `comparison`: regularisation schemes, side by side.
- `audit`: estimates held against retraining, stage by stage; in it `ground_truth`, which keeps the retrainings.
- `attribution`: the training examples behind a run's predictions; in it `labels`, those that are likely to be wrong.
- `papers`: studies of papers, and their registry.
"""
