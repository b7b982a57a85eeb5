import pytest
import torch

from bayes_influence.training.threads import PARALLEL_ELEMENTS, threads_for, torch_threads


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_block_runs_with_the_threads_asked_for_and_restores_the_callers():
    with torch_threads(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


def test_blocks_nest():
    with torch_threads(1):
        with torch_threads(3):
            assert torch.get_num_threads() == 3
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


def test_the_setting_is_restored_when_the_block_raises():
    with pytest.raises(RuntimeError, match="inside"), torch_threads(1):
        raise RuntimeError("inside")
    assert torch.get_num_threads() == 2


def test_no_threads_is_an_error_that_changes_nothing():
    with pytest.raises(ValueError, match="at least one thread, got n_threads=0"), torch_threads(0):
        pass
    assert torch.get_num_threads() == 2


def test_small_tensors_take_one_thread_and_large_ones_what_the_caller_allows():
    assert threads_for(0) == 1
    assert threads_for(PARALLEL_ELEMENTS - 1) == 1
    assert threads_for(PARALLEL_ELEMENTS) == 2
    with torch_threads(1):
        assert threads_for(100 * PARALLEL_ELEMENTS) == 1
