import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from nanograd import blas


def num_threads() -> set[int]:
    return {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}


def test_one_thread_holds_inside_the_block_and_no_longer() -> None:
    with threadpool_limits(limits=2, user_api="blas"):
        before = num_threads()
        with blas.one_thread():
            inside = num_threads()
        after = num_threads()

    assert inside == {1}
    assert after == before


def test_use_one_thread_holds_from_now_on() -> None:
    with threadpool_limits(limits=2, user_api="blas"):
        blas.use_one_thread()

        assert num_threads() == {1}


@pytest.mark.parametrize("size", [1, 7, 193])
def test_matrix_product_in_one_thread_repeats_its_bits(size: int) -> None:
    left = np.random.default_rng(7).normal(size=(size, 784)).astype(np.float32)

    with blas.one_thread():
        products = {(left @ left.T).tobytes() for _ in range(3)}

    assert left.dtype == np.float32
    assert len(products) == 1
