from collections import namedtuple

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from bayes_influence.data.item_hashes import LONG_CONTENT, WORDS, _condensed, _weights, item_hashes

Named = namedtuple("Named", ["image", "label"])


def test_hashes_of_long_contents_see_every_bit_and_their_order():
    length = 3 * WORDS + 1
    long = np.random.default_rng(0).integers(256, size=4 * length + 3, dtype=np.uint8)
    others = [long.copy() for _ in range(7)]
    others[0][0] ^= 1
    others[1][-1] ^= 128
    others[2][4 * WORDS + 2] ^= 16
    others[3][[3, 7]] ^= 128  # the highest bits of two words, which cancel in a sum of words
    others[4][:8] = np.concatenate([long[4:8], long[:4]])
    others[5][: 4 * WORDS], others[5][4 * WORDS : 8 * WORDS] = long[4 * WORDS : 8 * WORDS], long[: 4 * WORDS]
    others[6] = long[:-1]
    digests = [item_hashes([(one, 0)])[0] for one in [long, long.copy(), torch.from_numpy(long), *others]]
    assert digests[0] == digests[1] == digests[2]
    assert len(set(digests)) == 8
    words, weights = np.arange(length, dtype=np.uint32), _weights().tolist()
    by_hand = [
        sum(w * x for w, x in zip(weights, range(start, min(start + len(weights), length)), strict=False)) % 2**64
        for start in range(0, length, len(weights))
    ]
    (found,) = _condensed(words.view(np.uint8)[None])
    assert np.frombuffer(found, np.uint64).tolist() == [4 * length, *by_hand]


LONG = torch.rand(3, 2, LONG_CONTENT // 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "items",
    [
        [(LONG[number], number) for number in range(3)],
        [(LONG[number].T, number) for number in range(3)],
        [[number, LONG[number].double()[:, ::2], LONG[number]] for number in range(3)],
        [(LONG[number].requires_grad_(), number + 0.5) for number in range(3)],
        [Named(LONG[number].bfloat16(), number) for number in range(3)],
        [({"a": LONG[number], "b": LONG[number] + 1}, number) for number in range(3)],
        [{"image": LONG[number], "label": number} for number in range(3)],
        [(LONG[number].numpy(), number) for number in range(3)],
        [(LONG[number].double() if number == 1 else LONG[number], number) for number in range(3)],
        [(LONG[number], [1, 2.5, 3][number]) for number in range(3)],
        [LONG[number] for number in range(3)],
    ],
)
def test_a_batch_changes_no_hash(items):
    alone = [item_hashes([item])[0] for item in items]
    assert item_hashes(items) == alone == item_hashes(items, default_collate(items))
    assert [item_hashes([item], default_collate([item]))[0] for item in items] == alone
    assert len(set(alone)) == 3


def test_what_lies_in_another_order_is_another_item():
    """A picture and its mirror image, of the same memory."""
    one, other = (LONG[0], 0), (LONG[0].flip(1), 0)
    assert item_hashes([one, other], default_collate([one, other]))[0] != item_hashes([other])[0]
    assert item_hashes([(LONG[0].T.T, 0)]) == item_hashes([one])
