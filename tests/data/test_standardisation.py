import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris
from sklearn.preprocessing import StandardScaler

from bayes_influence.data.dataset import Dataset
from bayes_influence.data.standardisation import standardise
from bayes_influence.data.tables import load_table


def test_fitted_on_the_training_part_only():
    iris = load_table("iris")
    train, test = standardise(iris.without(83), iris.at(83))
    scaler = StandardScaler().fit(np.delete(load_iris().data, 83, axis=0))
    torch.testing.assert_close(train.inputs, torch.from_numpy(scaler.transform(iris.without(83).inputs.numpy())))
    torch.testing.assert_close(test.inputs, torch.from_numpy(scaler.transform(iris.at(83).inputs.numpy())))


def test_channels_share_one_mean_and_one_scale_over_positions():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(5, 2, 3, 4, generator=generator, dtype=torch.float64) * 3 + 1
    train = Dataset(images, torch.zeros(5), torch.arange(5))
    other = Dataset(images[:2] + 1, torch.zeros(2), torch.arange(2))
    (transformed, shifted) = standardise(train, other, by="channel")
    for channel in range(2):
        values = images[:, channel]
        expected = (values - values.mean()) / ((values - values.mean()) ** 2).mean().sqrt()
        torch.testing.assert_close(transformed.inputs[:, channel], expected)
        step = 1 / ((values - values.mean()) ** 2).mean().sqrt()
        torch.testing.assert_close(shifted.inputs[:, channel], expected[:2] + step)


def test_constant_features_are_centred_and_not_divided():
    train = Dataset(torch.tensor([[1.0, 0.1], [3.0, 0.1], [5.0, 0.1]]), torch.zeros(3), torch.arange(3))
    other = Dataset(torch.tensor([[3.0, 0.6]]), torch.zeros(1), torch.tensor([9]))
    train, other = standardise(train, other)
    torch.testing.assert_close(train.inputs[:, 1], torch.zeros(3))
    torch.testing.assert_close(other.inputs, torch.tensor([[0.0, 0.5]]))


def test_inputs_that_cannot_be_transformed():
    real = Dataset(torch.zeros(2, 3), torch.zeros(2), torch.arange(2), "real")
    nested = Dataset((torch.zeros(2, 3),), torch.zeros(2), torch.arange(2), "nested")
    whole = Dataset(torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2), torch.arange(2), "whole")
    narrow = Dataset(torch.zeros(2, 2), torch.zeros(2), torch.arange(2), "narrow")
    for refused in (nested, whole):
        with pytest.raises(TypeError, match=f"{refused.name}: standardise needs the inputs as one tensor of real"):
            standardise(real, refused)
    with pytest.raises(ValueError, match=r"narrow: examples have shape \(2,\), .* fitted on have \(3,\)"):
        standardise(real, narrow)
    with pytest.raises(ValueError, match=r"real: channels need inputs of shape \(n, channels, ...\), got \(2, 3\)"):
        standardise(real, by="channel")
    with pytest.raises(ValueError, match="standardise by 'feature' or by 'channel', got 'row'"):
        standardise(real, by="row")
