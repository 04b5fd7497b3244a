import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from threadpoolctl import threadpool_info, threadpool_limits

from nanograd.runtime import process

# SciPy has a BLAS of its own, which computes nothing here; a test may have imported it.
NUMPYS = [each["filepath"] for each in threadpool_info() if each["user_api"] == "blas"]


def num_threads() -> set[int]:
    return {each["num_threads"] for each in threadpool_info() if each["filepath"] in NUMPYS}


def test_use_one_thread_holds_permanently():
    with threadpool_limits(limits=2, user_api="blas"):
        process.use_one_thread()

        assert num_threads() == {1}


def test_limit_holds_until_the_last_thread_leaves():
    both_inside, first_out = Barrier(2), Barrier(2)

    def leave_first() -> None:
        with process.one_thread():
            with process.one_thread():
                pass
            both_inside.wait()
        first_out.wait()

    def leave_last() -> tuple[set[int], float]:
        with process.one_thread():
            both_inside.wait()
            first_out.wait()
            return num_threads(), sys.getswitchinterval()

    before = sys.getswitchinterval()
    with threadpool_limits(limits=2, user_api="blas"), ThreadPoolExecutor(2) as pool:
        first, last = pool.submit(leave_first), pool.submit(leave_last)
        first.result()
        limits, switch_s = last.result()
        assert limits == {1}
        assert switch_s < before
        assert num_threads() == {2}
        assert sys.getswitchinterval() == before
