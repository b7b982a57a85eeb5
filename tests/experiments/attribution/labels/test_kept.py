import torch

from bayes_influence.experiments.attribution.labels.kept import KEPT, Predicted, kept_predictions
from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.training.cross_validation import HeldOut


def predicted(seed):
    generator = torch.Generator().manual_seed(seed)
    folds = torch.tensor([0, 1, 0, 1])
    members = torch.rand(2, 2, 4, 3, generator=generator, dtype=torch.float64)
    epistemic = torch.rand(2, 2, 4, generator=generator, dtype=torch.float64)
    tried = [HeldOut(folds, *parts) for parts in zip(members, epistemic, strict=True)]
    return Predicted(tried, torch.rand(2, generator=generator, dtype=torch.float64))


def test_predictions_are_made_once_and_come_back_as_they_were(tmp_path):
    folder = StudyFolder(tmp_path / "search", {"study": "labels"})
    first = kept_predictions(folder, lambda: predicted(0))
    again = kept_predictions(StudyFolder.open(tmp_path / "search"), lambda: predicted(1))
    assert torch.equal(again.gains, first.gains)
    for before, after in zip(first.tried, again.tried, strict=True):
        for name in ("folds", "members", "member_epistemic"):
            assert torch.equal(getattr(after, name), getattr(before, name))
    assert folder.keys() == [KEPT]


def test_without_a_folder_nothing_is_kept():
    assert torch.equal(kept_predictions(None, lambda: predicted(1)).gains, predicted(1).gains)
