"""How a person is shown an example."""

import torch

import bayes_influence as bi
from bayes_influence.data.appearance import appearances
from bayes_influence.data.arguments import Arguments
from bayes_influence.data.stream import Stream
from bayes_influence.data.streamed import StreamedDataset


def test_pictures_are_tensors_of_one_or_three_channels_and_known_tables_of_pictures():
    images = bi.Dataset(
        torch.rand(4, 3, 8, 9), torch.tensor([0, 1, 1, 0]), torch.arange(4) + 7, class_names=("cat", "dog")
    )
    shown = appearances(images, [9, 7])
    assert torch.equal(shown[0].picture, images.inputs[2])
    assert [one.label for one in shown] == ["dog", "cat"]
    assert shown[0].text == ""
    assert appearances(bi.Dataset(torch.rand(4, 5, 8, 9), images.targets, images.ids), [9])[0].picture is None
    assert appearances(bi.Dataset(torch.rand(4, 3, 2, 9), images.targets, images.ids), [9])[0].picture is None
    digits = bi.load_table("digits")
    assert appearances(digits, [3])[0].picture.shape == (1, 8, 8)


def test_a_row_names_the_columns_that_stand_out_first():
    values = torch.tensor([[0.0, 10.0], [1.0, 10.5], [2.0, 30.0], [3.0, 10.2]])
    table = bi.Dataset(values, torch.tensor([0.5, 1.5, 2.25, 1.0]), torch.arange(4), feature_names=("age", "dose"))
    shown = appearances(table, [2, 3])
    assert (shown[0].label, shown[0].text) == ("2.25", "dose = 30, age = 2")
    assert shown[1].text == "age = 3, dose = 10.2"
    alone = table.at([3]).with_inputs(torch.tensor([[2.0, 100.0]]))
    assert appearances(alone, [3], among=table)[0].text.startswith("dose = 100")
    streamed = StreamedDataset(Stream([(row, 0) for row in values], "rows"))
    assert appearances(streamed, [1])[0].text.startswith("[")


def test_tokens_are_decoded_and_long_texts_cut():
    tokens = torch.arange(400).repeat(2, 1)
    texts = bi.Dataset(
        Arguments(input_ids=tokens, mask=torch.ones(2, 400)), torch.zeros(2, 400).long(), torch.arange(2)
    )
    shown = appearances(texts, [1], decode=lambda ids: "".join(chr(97 + one % 26) for one in ids))[0]
    assert shown.text.startswith("abcdefg")
    assert shown.text.endswith(" ...")
    assert len(shown.text) == 284
    assert shown.label == ""
    alone = appearances(texts, [1])[0].text
    assert alone.startswith("tokens 0 1 2 3 ")
    assert alone.endswith(" ...")


def test_padding_is_no_part_of_a_text_wherever_the_mask_stands():
    tokens = torch.tensor([[3, 1, 4, 0], [2, 7, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
    padded = bi.Dataset(Arguments(attention_mask=mask, input_ids=tokens), torch.tensor([0, 1]), torch.arange(2))
    assert [one.text for one in appearances(padded, [0, 1])] == ["tokens 3 1 4", "tokens 2 7"]
    assert appearances(padded, [1], decode=lambda ids: "-".join(map(str, ids)))[0].text == "2-7"
    whole = bi.Dataset(tokens, torch.tensor([0, 1]), torch.arange(2))
    assert appearances(whole, [0])[0].text == "tokens 3 1 4 0"
    named = bi.Dataset(tokens, torch.tensor([0, 1]), torch.arange(2), feature_names=("a", "b", "c", "d"))
    assert "b = 7" in appearances(named, [1])[0].text  # whole numbers in columns that have names are no tokens
    measured = bi.Dataset(Arguments(torch.rand(2, 3), mask=mask == 1), torch.tensor([0, 1]), torch.arange(2))
    assert appearances(measured, [1])[0].text == "numbers of shape (3,) float32 and (4,) bool"
