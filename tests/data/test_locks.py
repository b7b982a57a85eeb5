import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from bayes_influence.data.locks import BusyError, only_writer

HOLDING = """
    import sys, time
    from pathlib import Path
    from bayes_influence.data.locks import only_writer

    with only_writer(Path(sys.argv[1]), "it"):
        print("held", flush=True)
        time.sleep(60)
"""


def test_one_writer_at_a_time_and_the_next_one_after_it(tmp_path):
    with only_writer(tmp_path / "scores", "the scores"):
        with pytest.raises(BusyError, match=r"another process is writing the scores; wait until it has finished, or"):
            only_writer(tmp_path / "scores", "the scores").__enter__()
        with only_writer(tmp_path / "other", "others"):
            assert {item.name for item in tmp_path.iterdir()} == {".scores.lock", ".other.lock"}
    with only_writer(tmp_path / "scores", "the scores"):
        assert not (tmp_path / "scores").exists()


def test_an_error_gives_the_right_back(tmp_path):
    with pytest.raises(ZeroDivisionError), only_writer(tmp_path / "scores", "the scores"):
        raise ZeroDivisionError
    with only_writer(tmp_path / "scores", "the scores"):
        pass


def test_a_writer_can_wait_for_another(tmp_path):
    def hold():
        with only_writer(tmp_path / "scores", "the scores"):
            time.sleep(0.3)

    with ThreadPoolExecutor() as pool:
        held = pool.submit(hold)
        time.sleep(0.1)
        with only_writer(tmp_path / "scores", "the scores", waiting=30):
            assert held.done() or held.result() is None


def test_a_writer_that_dies_blocks_nobody(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLDING), str(tmp_path / "scores")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    with pytest.raises(BusyError, match="another process is writing it"):
        only_writer(tmp_path / "scores", "it").__enter__()
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)
    process.stdout.close()
    with only_writer(tmp_path / "scores", "it"):
        assert process.returncode == -signal.SIGKILL
