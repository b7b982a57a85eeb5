"""What is trained, and what came of it.

- `TrainRun` (`settings`), `run_training`, `load_run`, `load_trained` (`run`): a network, a scheme and a data set,
  trained in minibatches in a folder of their own.
- `train_and_report` (`report`): scores of a run's predictions, and whether their uncertainty knows the errors.
- `train_schemes` (`side_by_side`): several schemes on the same network, data and seeds.
- `OfData` (`of_data`), `OfNetwork` (`of_network`): settings that name a data set, and a network on it.
- `StudiedNetworks` (`studied_networks`): networks from several seeds, the settings of comparisons and audits.
"""
