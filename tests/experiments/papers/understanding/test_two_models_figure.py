import numpy as np
import pandas as pd

from bayes_influence.experiments.papers.understanding.two_models_figure import two_models_figure


def test_the_pictures_are_those_of_largest_and_smallest_influence_with_their_class():
    pictures = np.stack([np.full((2, 2), row / 10) for row in range(10)])
    effects = np.array([0.0, 5.0, -5.0, 4.0, -4.0, 3.0, -3.0, 2.0, -2.0, 0.0])
    rows = {"same": [True, False] * 5, "distance": np.arange(10.0)}
    images = pd.concat(
        [
            pd.DataFrame({"model": "one", "estimated": effects, **rows}),
            pd.DataFrame({"model": "two", "estimated": -effects, **rows}),
        ]
    )
    figure = two_models_figure(images, pictures, np.ones((2, 2)))
    drawn = [axes for axes in figure.axes if axes.images]
    assert len(drawn) == 2 * (1 + 8)
    assert [axes.get_title() for axes in drawn[:2]] == ["test image", "helpful, other class"]
    shown = [round(10 * float(axes.images[0].get_array()[0, 0])) for axes in drawn]
    assert shown == [10, 1, 3, 5, 7, 2, 4, 6, 8, 10, 2, 4, 6, 8, 1, 3, 5, 7]
    assert [axes.get_title() for axes in drawn[5:9]] == ["harmful, same class"] * 4
    scatters = [axes for axes in figure.axes if not axes.images]
    assert [axes.get_title() for axes in scatters] == ["one", "two"]
    assert len(scatters[0].lines[0].get_xdata()) == 5
