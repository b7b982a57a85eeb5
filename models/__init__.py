"""Deterministic networks, each written once; imported as `bayes_influence.models`."""

if __name__ == "models":
    raise ImportError(
        "this folder is installed as bayes_influence.models: install the project (pip install -e .) and "
        "import bayes_influence.models, not the bare name models"
    )

from bayes_influence.models.lenet import LeNet
from bayes_influence.models.mlp import MLP
from bayes_influence.models.resnet import ResNet
from bayes_influence.models.vgg import VGG

__all__ = ["MLP", "VGG", "LeNet", "ResNet"]
