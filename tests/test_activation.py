"""The activation functions: frozen bits, accuracy, edges, and the C++ header against NumPy."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from evokern.backends.reference import activation
from evokern.errors import ArgumentError
from evokern.network import ACTIVATIONS

ROOT = Path(__file__).resolve().parents[1]
SLOPE = 0.01
ALL_INPUTS = 2**32
CHUNK = 2**16

Function = Callable[[NDArray[np.float32]], NDArray[np.float32]]
FUNCTIONS: dict[str, Function] = {
    "exp": activation.exp,
    "log": activation.log,
    "erf": activation.erf,
    "relu": activation.relu,
    "leaky_relu": partial(activation.leaky_relu, slope=SLOPE),
    "tanh": activation.tanh,
    "sigmoid": activation.sigmoid,
    "gelu": activation.gelu,
    "gelu_tanh": activation.gelu_tanh,
    "silu": activation.silu,
}

# What each function is close to, in float64, and how close (ulp).
EXACT: dict[str, tuple[Callable[[NDArray[np.float64]], NDArray[np.float64]], float]] = {
    "exp": (np.exp, 2),
    "log": (np.log, 2),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), 2),
    "tanh": (np.tanh, 4),
    "erf": (scipy.special.erf, 4),
}

# Bits of 64 inputs and of their results; any NaN is written as 7fc00000.
INPUTS = """
    00000000 80000000 7f800000 ff800000 7fc00000 00000001 80000001 007fffff
    00800000 80800000 7f7fffff ff7fffff 3f800000 bf800000 3f000000 bf000000
    40000000 c0000000 3dcccccd bdcccccd 40400000 c0400000 c2aeac4f c2aeac50
    42b17217 42b17218 41180000 41180001 40800000 40800001 3fb504f3 3fb504f4
    c08e9c2a bf8e9c2a 3eb17218 3eb17219 3ad987ff badf7f6a 38f18223 b7694e45
    35dc9022 3e2173cd be2e1011 3d6a8ca6 bd6d025b 3f7f5e73 beb4b6c7 3dcebb09
    be3c6e0d 4077003a c05e2504 404e47c0 bfdc86d4 3ffd892e c02386ba 3f8b41c7
    c00a4163 3fba7bbe 414cb456 c08b56a7 411d0e0c c14a2223 41b8b3a5 c2a4045b
"""
RESULTS = {
    "exp": """
        3f800000 3f800000 7f800000 00000000 7fc00000 3f800000 3f800000 3f800000
        3f800000 3f800000 7f800000 00000000 402df854 3ebc5ab2 3fd3094c 3f1b4598
        40ec7326 3e0a9555 3f8d763e 3f67a36d 41a0af2e 3d4bed86 00800026 00000000
        7f7fff84 7f800000 4650bee8 4650bef6 425a6482 425a6488 40839fbf 40839fc0
        3c3e1709 3ea80976 3fb504f3 3fb504f4 3f80366e 3f7f9059 3f8003c6 3f7fff17
        3f80000e 3f95dc0c 3f57fb59 3f878b29 3f719b7b 402d8aae 3f33de14 3f8d9865
        3f54f902 423dbed2 3cfea751 41c8da3e 3e36d6d7 40e7f100 3d9f191c 403df676
        3dec2104 40895d49 48afcf90 3c528d52 468f26a0 365adf8a 501e8582 044e0889
    """,
    "log": """
        ff800000 ff800000 7f800000 7fc00000 7fc00000 c2ce8ed0 7fc00000 c2aeac50
        c2aeac50 7fc00000 42b17218 7fc00000 00000000 7fc00000 bf317218 7fc00000
        3f317218 7fc00000 c0135d8e 7fc00000 3f8c9f54 7fc00000 7fc00000 7fc00000
        408f895c 408f895c 4010152a 4010152b 3fb17218 3fb17219 3eb17218 3eb1721a
        7fc00000 7fc00000 bf87a2f1 bf87a2f0 c0ccd64d 7fc00000 c1111b64 7fc00000
        c15519c4 bfec7313 7fc00000 c0370be0 7fc00000 bb21c00f 7fc00000 c012c3d4
        7fc00000 3facdd79 7fc00000 3f95ce1e 7fc00000 3f2ef838 7fc00000 3daca07c
        7fc00000 3ec0abf0 40232276 7fc00000 40122d2a 7fc00000 4048ea4e 7fc00000
    """,
    "erf": """
        00000000 80000000 3f800000 bf800000 7fc00000 00000001 80000001 00906eb9
        00906eba 80906eba 3f800000 bf800000 3f57bb3d bf57bb3d 3f053f7b bf053f7b
        3f7ecd71 bf7ecd71 3de652f5 bde652f5 3f7ffe8d bf7ffe8d bf800000 bf800000
        3f800000 3f800000 3f800000 3f800000 3f800000 3f800000 3f745a18 3f745a19
        bf800000 bf62881f 3ec07d7e 3ec07d7f 3af5751e bafc309f 390841aa b783a0f0
        35f8e0f3 3e34ae58 be42888c 3d842f93 bd8591ac 3f577803 bec3c0e0 3de87b0a
        be523ea4 3f7fffff bf7ffff1 3f7fffa9 bf7c3416 3f7eb257 bf7fec33 3f6047be
        bf7f6c86 3f75ec4b 3f800000 bf800000 3f800000 bf800000 3f800000 bf800000
    """,
    "relu": """
        00000000 80000000 7f800000 00000000 7fc00000 00000001 00000000 007fffff
        00800000 00000000 7f7fffff 00000000 3f800000 00000000 3f000000 00000000
        40000000 00000000 3dcccccd 00000000 40400000 00000000 00000000 00000000
        42b17217 42b17218 41180000 41180001 40800000 40800001 3fb504f3 3fb504f4
        00000000 00000000 3eb17218 3eb17219 3ad987ff 00000000 38f18223 00000000
        35dc9022 3e2173cd 00000000 3d6a8ca6 00000000 3f7f5e73 00000000 3dcebb09
        00000000 4077003a 00000000 404e47c0 00000000 3ffd892e 00000000 3f8b41c7
        00000000 3fba7bbe 414cb456 00000000 411d0e0c 00000000 41b8b3a5 00000000
    """,
    "leaky_relu": """
        00000000 80000000 7f800000 ff800000 7fc00000 00000001 80000000 007fffff
        00800000 800147ae 7f7fffff fc23d709 3f800000 bc23d70a 3f000000 bba3d70a
        40000000 bca3d70a 3dcccccd ba83126f 40400000 bcf5c28f bf5f94e0 bf5f94e1
        42b17217 42b17218 41180000 41180001 40800000 40800001 3fb504f3 3fb504f4
        bd368a73 bc368a73 3eb17218 3eb17219 3ad987ff b78f09dd 38f18223 b41550d0
        35dc9022 3e2173cd badecce2 3d6a8ca6 ba17af96 3f7f5e73 bb67505b 3dcebb09
        baf130b4 4077003a bd0e2c2b 404e47c0 bc8d2317 3ffd892e bcd1504a 3f8b41c7
        bcb0f789 3fba7bbe 414cb456 bd325a6f 411d0e0c be015d87 41b8b3a5 bf51f118
    """,
    "tanh": """
        00000000 80000000 3f800000 bf800000 7fc00000 00000001 80000001 007fffff
        00800000 80800000 3f800000 bf800000 3f42f7d6 bf42f7d6 3eec9a9f beec9a9f
        3f76ca83 bf76ca83 3dcc1ebd bdcc1ebd 3f7ebbe9 bf7ebbe9 bf800000 bf800000
        3f800000 3f800000 3f800000 3f800000 3f7fd40c 3f7fd40c 3f636d3d 3f636d3e
        bf7fee5c bf4e36a3 3eaaaaab 3eaaaaac 3ad987f2 badf7f5c 38f18223 b7694e45
        35dc9022 3e2020ae be2c67cb 3d6a4b1a bd6cbebb 3f42b3dc bead90cc 3dce0803
        be3a54dc 3f7fc5c7 bf7f8177 3f7f3064 bf702e56 3f766fb4 bf7cedbd 3f4bcef8
        bf794875 3f65a502 3f800000 bf7fea5b 3f800000 bf800000 3f800000 bf800000
    """,
    "sigmoid": """
        3f000000 3f000000 3f800000 00000000 7fc00000 3f000000 3f000000 3f000000
        3f000000 3f000000 3f800000 00000000 3f3b26a8 3e89b2b1 3f1f597e 3ec14d02
        3f617beb 3df420a9 3f066509 3ef335ed 3f73dbe6 3d4241a2 00800026 00000000
        3f800000 3f800000 3f7ffb18 3f7ffb18 3f7b6541 3f7b6542 3f4def1a 3f4def1b
        3c3be8ea 3e7d07b8 3f15f61a 3f15f61a 3f001b32 3effc820 3f0001e3 3effff8c
        3f000007 3f0a11e6 3eea4b5d 3f03a9f1 3ef89875 3f3b06e0 3ed348e5 3f067471
        3ee88334 3f7ab6f7 3cf6f9e6 3f7631ac 3e1b237c 3f60f67b 3d93a12a 3f3f7c92
        3dd3b7e9 3f4fa184 3f7fffd1 3c4fe16b 3f7ffc6c 365adf5b 3f800000 044e0889
    """,
    "gelu": """
        00000000 80000000 7f800000 7fc00000 7fc00000 00000000 80000000 00400000
        00400000 80400000 7f7fffff 80000000 3f57625e be227686 3eb103af be1df8a2
        3ffa2d0c bd3a5e80 3d5d1d0d bd3c7c8d 403fbda6 bb84b340 80000000 80000000
        42b17217 42b17218 41180000 41180001 407ffdec 407ffdee 3fa6c840 3fa6c841
        b79bface be174a9b 3e618c94 3e618c96 3a59d1bd ba5f3192 387187d2 b6e94d9b
        355c9035 3db5adec bd969180 3cf5428c bce212ad 3f56b368 be02dbd6 3d5f5a43
        bda0eb6f 4076fca2 ba6be49e 404e2646 bd95cdff 3ff77fce bc5e33d4 3f6ffe22
        bd080fa8 3facf32f 414cb456 b7f3d7a4 411d0e0c 80000000 41b8b3a5 80000000
    """,
    "gelu_tanh": """
        00000000 80000000 7f800000 7fc00000 7fc00000 00000000 80000000 00400000
        00400000 80400000 7f7fffff 80000000 3f57585c be229e90 3eb1016e be1dfd25
        3ffa3042 bd39f7c0 3d5d1d05 bd3c7c95 403fc468 bb6e6200 80000000 80000000
        42b17217 42b17218 41180000 41180001 407ffeda 407ffedc 3fa6c0aa 3fa6c0ab
        b6da5f20 be177c93 3e618b6e 3e618b70 3a59d1bd ba5f3192 387187d2 b6e94d9b
        355c9035 3db5add2 bd9691a4 3cf5428a bce212af 3f56a974 be02dd10 3d5f5a39
        bda0eba0 4076fe04 ba34ed26 404e2b7e bd960c43 3ff78278 bc56bb56 3f6ff22d
        bd0719cb 3facebc4 414cb456 b741c480 411d0e0c 80000000 41b8b3a5 80000000
    """,
    "silu": """
        00000000 80000000 7f800000 7fc00000 7fc00000 00000000 80000000 00400000
        00400000 80400000 7f7fffff 80000000 3f3b26a8 be89b2b1 3e9f597e be414d02
        3fe17beb be7420a9 3d57080f bd42918b 4036e4ec be11b13a 83aeac83 80000000
        42b17217 42b17218 4117fd16 4117fd17 407b6541 407b6544 3f919e09 3f919e0a
        bd515ba5 be8cf4a2 3e4fe3fb 3e4fe3fc 3a59b637 ba5f4ea2 387185b2 b6e94ddb
        355c902e 3dae276d bd9f4ded 3cf14359 bce6276e 3f3a90da be15261b 3d5927dd
        bdab244e 4071e6c1 bdd6506b 404660f9 be85a434 3fdecc24 be3c9a9f 3f5053ae
        be64ae6e 3f973fb7 414cb430 bd624b85 411d0bda b82cd16d 41b8b3a5 878400f9
    """,
}

# SHA-256 of the results (little-endian, any NaN as 7fc00000) for all inputs by ascending bits.
HASHES = {
    "exp": "94496adf8465eb8bdcdf535f6beee768fa6ce750a2413f6a44b36b61f556bbd7",
    "log": "d797da7023241bf0728ebec0e9d9dba764833b171897daec037d537de9a36ea9",
    "erf": "3547f8b820f9b147374ac8a9bf17c1d63eac0964fc8680ff5eb47a6cdaa85e2d",
    "relu": "09b64b85c1cab4840e512de9960c320486441db48d9682a1a7e8f1c14469d41d",
    "leaky_relu": "038b604b3261d62679d8763cdd5865620ec9074dc6f8dec7b571b98f0bc5d46e",
    "tanh": "fe25dc711bad43a96f9fae59113e8fc21242fb8afa1ddfdbdd8dec396ca5388d",
    "sigmoid": "07f997acdcf978ecb176786d76b6cc3b72d2093985360f3446880cdfa17c2df7",
    "gelu": "8850a6fccb1dd3fae5756f501b932090a51bc5c2b0aa9ea2b309665a5a38f745",
    "gelu_tanh": "09530bfc1acbb69e82944073530e23750882045142255b89c6946be007bafdb6",
    "silu": "c4d4653c35879b6bc2ce2b37aeea2b0ac31e89cfca039d675c5b3a15f8aa86cc",
}


def from_words(words: str) -> NDArray[np.uint32]:
    return np.array([int(word, 16) for word in words.split()], np.uint32)


def bits(x: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Bits with one pattern for all NaN."""
    return np.where(np.isnan(x), np.uint32(0x7FC00000), x.view(np.uint32))


def floats(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def inputs(first: int, count: int, stride: int) -> NDArray[np.float32]:
    """The numbers with the bits first, first + stride, ... modulo 2^32."""
    patterns = first + np.arange(count, dtype=np.uint64) * np.uint64(stride)
    return patterns.astype(np.uint32).view(np.float32)


def describe(wrong: NDArray[np.bool_], x: NDArray[np.float32], *columns: NDArray[Any]) -> str:
    """The first few of the wrong inputs, as bits, with what belongs to them."""
    rows = zip(x.view(np.uint32)[wrong], *(column[wrong] for column in columns), strict=True)
    return "; ".join(" ".join([f"{row[0]:08x}", *map(str, row[1:])]) for row in islice(rows, 5))


def check_accuracy(name: str, x: NDArray[np.float32], result: NDArray[np.float32]) -> None:
    """Bound in ulp for normal results; the rules for results that are too small or too large."""
    function, bound = EXACT[name]
    with np.errstate(all="ignore"):
        exact = function(x.astype(np.float64))
        size = np.abs(exact)
        ulp = np.ldexp(1.0, np.frexp(size)[1] - 24)
        error = np.abs(result - exact) / ulp
    overflow = size >= 2.0**128 - 2.0**103
    normal = (size >= 2.0**-126) & ~overflow
    # `~` keeps a NaN result from passing.
    wrong = normal & ~(error <= bound)
    wrong |= overflow & (result != np.copysign(np.inf, exact))
    wrong |= np.isnan(exact) != np.isnan(result)
    if name in ("exp", "sigmoid"):
        wrong |= (size < 2.0**-126) & (result.view(np.uint32) != 0)
    assert not wrong.any(), describe(wrong, x, result, exact)


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The C++ program that writes tables of results, by lanes: plain, and vectorised."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed")
    folder = tmp_path_factory.mktemp("activation")
    programs = {}
    for lanes, options in [(1, ["-O2"]), (8, ["-O3", "-march=native"])]:
        programs[lanes] = folder / f"table{lanes}"
        flags = ["-std=c++17", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-Wno-psabi"]
        source = ROOT / "tests" / "cpp" / "activation_table.cpp"
        command = [compiler, *flags, *options, f"-I{ROOT / 'csrc'}", str(source)]
        subprocess.run([*command, "-o", str(programs[lanes])], check=True)
    return programs


def run_table(
    program: Path, name: str, lanes: int, *ranges: tuple[int, int, int]
) -> Iterator[NDArray[np.float32]]:
    """The C++ results for `inputs(*range)` of every range, in chunks."""
    command = [str(program), name, str(lanes), *map(str, chain.from_iterable(ranges))]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        while output := process.stdout.read(4 * CHUNK):
            yield np.frombuffer(output, "<f4")


def assert_same_bits(
    x: NDArray[np.float32], result: NDArray[np.float32], expected: NDArray[np.float32]
) -> None:
    wrong = bits(result) != bits(expected)
    assert not wrong.any(), describe(wrong, x, result, expected)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_bits_are_frozen(name: str) -> None:
    result = FUNCTIONS[name](from_words(INPUTS).view(np.float32))
    assert result.dtype == np.float32
    np.testing.assert_array_equal(bits(result), from_words(RESULTS[name]))


@pytest.mark.parametrize("name", EXACT)
def test_accuracy(name: str) -> None:
    x = inputs(0, ALL_INPUTS // 4099, 4099)
    check_accuracy(name, x, FUNCTIONS[name](x))


@pytest.mark.parametrize(
    ("name", "exact"),
    [
        ("gelu", lambda x: x / 2 * (1 + scipy.special.erf(x * 0.5**0.5))),
        ("gelu_tanh", lambda x: x / 2 * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))),
        ("silu", lambda x: x / (1 + np.exp(-x))),
    ],
)
def test_products_are_close(
    name: str, exact: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> None:
    # The other factor is at most 1 and off by less than 4 units of 2^-24; the products round.
    x = inputs(0, ALL_INPUTS // 4099, 4099)
    x = x[np.isfinite(x)]
    with np.errstate(over="ignore"):
        error = np.abs(FUNCTIONS[name](x) - exact(x.astype(np.float64)))
    assert np.all(error <= 4 * 2.0**-24 * np.abs(x.astype(np.float64)) + 2.0**-149)


INF, NAN = float("inf"), float("nan")
LARGEST = float(np.finfo(np.float32).max)


@pytest.mark.parametrize(
    ("name", "x", "expected"),
    [
        ("exp", [0.0, -0.0, -INF, INF, NAN], [1.0, 1.0, 0.0, INF, NAN]),
        ("exp", [88.72283, 88.72284, LARGEST, -LARGEST], [3.4027986e38, INF, INF, 0.0]),
        ("exp", [-87.33654, -87.336548, 1e-45, -1e-45], [1.1754997e-38, 0.0, 1.0, 1.0]),
        ("log", [1.0, 0.0, -0.0, INF, NAN], [0.0, -INF, -INF, INF, NAN]),
        ("log", [-1e-45, -1.0, -INF], [NAN, NAN, NAN]),
        ("log", [2.0**-149, 2.0**-126, 2.0**127], [-103.27893, -87.33655, 88.02969]),
        ("tanh", [0.0, -0.0, INF, -INF, NAN], [0.0, -0.0, 1.0, -1.0, NAN]),
        ("tanh", [1e-45, -1e-45, 9.6, -LARGEST], [1e-45, -1e-45, 1.0, -1.0]),
        ("erf", [0.0, -0.0, INF, -INF, NAN], [0.0, -0.0, 1.0, -1.0, NAN]),
        ("erf", [1e-45, -1e-45, 4.1, -LARGEST], [1e-45, -1e-45, 1.0, -1.0]),
        ("sigmoid", [0.0, -0.0, INF, -INF, NAN], [0.5, 0.5, 1.0, 0.0, NAN]),
        ("sigmoid", [-87.33654, -87.336548, -LARGEST, 18.0], [1.1754997e-38, 0.0, 0.0, 1.0]),
        ("relu", [0.0, -0.0, -1.0, INF, -INF, NAN], [0.0, -0.0, 0.0, INF, 0.0, NAN]),
        ("leaky_relu", [0.0, -0.0, -2.0, INF, -INF, NAN], [0.0, -0.0, -0.02, INF, -INF, NAN]),
        ("gelu", [0.0, -0.0, INF, -INF, NAN, -LARGEST], [0.0, -0.0, INF, NAN, NAN, -0.0]),
        ("gelu_tanh", [0.0, -0.0, INF, -INF, NAN, -LARGEST], [0.0, -0.0, INF, NAN, NAN, -0.0]),
        ("silu", [0.0, -0.0, INF, -INF, NAN, -LARGEST], [0.0, -0.0, INF, NAN, NAN, -0.0]),
    ],
)
def test_edges(name: str, x: list[float], expected: list[float]) -> None:
    np.testing.assert_array_equal(bits(FUNCTIONS[name](floats(*x))), bits(floats(*expected)))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_finite_inputs_never_give_nan(name: str) -> None:
    x = inputs(0, ALL_INPUTS // 4099, 4099)
    x = x[np.isfinite(x) & ((x >= 0) | (name != "log"))]
    assert not np.isnan(FUNCTIONS[name](x)).any()


@pytest.mark.parametrize("name", ["tanh", "erf"])
@given(x=st.floats(width=32, allow_nan=False))
def test_odd(name: str, x: float) -> None:
    np.testing.assert_array_equal(
        bits(FUNCTIONS[name](floats(-x))), bits(-FUNCTIONS[name](floats(x)))
    )


@pytest.mark.parametrize("name", FUNCTIONS)
@given(words=st.lists(st.integers(0, 2**32 - 1), max_size=40))
def test_element_by_element(name: str, words: list[int]) -> None:
    """Neighbours, shape and strides do not show; the input stays as it is; nothing warns."""
    x = np.array(words, np.uint32).view(np.float32)
    before = x.tobytes()
    with np.errstate(all="raise"):
        result = FUNCTIONS[name](x)
        reversed_result = FUNCTIONS[name](x[::-1])
        single = [FUNCTIONS[name](x[i : i + 1].reshape(1, 1))[0] for i in range(len(x))]
    assert x.tobytes() == before
    np.testing.assert_array_equal(bits(result), bits(reversed_result)[::-1])
    np.testing.assert_array_equal(bits(result), bits(np.array(single, np.float32).reshape(-1)))


@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name != "identity"])
def test_activate_finds_every_function(name: str) -> None:
    x = from_words(INPUTS).view(np.float32)
    result = activation.activate(name, x, SLOPE)
    np.testing.assert_array_equal(bits(result), from_words(RESULTS[name]))


def test_activate_identity_is_the_input() -> None:
    x = floats(-1.0, 2.0)
    assert activation.activate("identity", x) is x


def test_activate_leaky_relu_takes_the_slope() -> None:
    result = activation.activate("leaky_relu", floats(-2.0, 3.0), 0.25)
    assert result.tolist() == [-0.5, 3.0]


def test_activate_refuses_an_unknown_name() -> None:
    with pytest.raises(ArgumentError, match=r"^name: expected one of .*'silu'.*, got 'swish'"):
        activation.activate("swish", floats(1.0))


def test_codes_follow_the_order_of_names() -> None:
    header = (ROOT / "csrc" / "core" / "activation.h").read_text()
    codes = re.search(r"enum Code : int \{(.*?)\};", header, re.DOTALL)
    assert codes is not None
    entries = re.findall(r"(\w+) = (\d+)", codes[1])
    assert entries == [(name, str(code)) for code, name in enumerate(ACTIVATIONS)]


@pytest.mark.parametrize("lanes", [1, 8])
@pytest.mark.parametrize("name", [*FUNCTIONS, "identity"])
def test_cpp_equals_numpy(tables: dict[int, Path], name: str, lanes: int) -> None:
    first, count, stride = 5, 2**22, 1021
    results = run_table(tables[lanes], name, lanes, (first, count, stride))
    for start, result in zip(range(0, count, CHUNK), results, strict=True):
        x = inputs(first + start * stride, CHUNK, stride)
        assert_same_bits(x, result, FUNCTIONS.get(name, activation.identity)(x))


@pytest.mark.parametrize("lanes", [1, 8])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_cpp_equals_numpy_at_the_edges(tables: dict[int, Path], name: str, lanes: int) -> None:
    """Around every one of the 64 inputs, among them all limits that the functions compare with."""
    ranges = [((int(word) - 8) % ALL_INPUTS, 16, 1) for word in from_words(INPUTS)]
    (result,) = run_table(tables[lanes], name, lanes, *ranges)
    x = np.concatenate([inputs(*values) for values in ranges])
    assert_same_bits(x, result, FUNCTIONS[name](x))


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
def test_all_inputs(tables: dict[int, Path], name: str) -> None:
    """NumPy, C++ and C++ on vectors agree everywhere, are accurate, and give the frozen hash.

    Minutes per function.
    """
    digest = hashlib.sha256()
    scalar, vector = (run_table(tables[n], name, n, (0, ALL_INPUTS, 1)) for n in (1, 8))
    for start, *results in zip(range(0, ALL_INPUTS, CHUNK), scalar, vector, strict=True):
        x = inputs(start, CHUNK, 1)
        expected = FUNCTIONS[name](x)
        for result in results:
            assert_same_bits(x, result, expected)
        if name in EXACT:
            check_accuracy(name, x, expected)
        digest.update(bits(expected).astype("<u4").tobytes())
    assert digest.hexdigest() == HASHES[name]
