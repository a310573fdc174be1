"""The kernels of train_lora that memory bounds: bytes a second of each, against a copy of as many bytes and against PyTorch.

On a GPU it is the fused CUDA kernels in bfloat16, at sizes of a Llama of 1B parameters that no cache holds; without one it is NumPy's bodies in
float32, small, and a second is one of CPU time, which neighbours on the machine move less. Bytes are those that a kernel cannot avoid: each of its arrays read or written once. PyTorch is eager, by its own fused operators where
it has one; without torch only ours and the copy are measured. Before anything is timed the results are compared.
"""

import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from dihedral.data_plane.device import array_module, to_host
from dihedral.data_plane.kernels import adamw, attention, cross_entropy, rms_norm, rope, swiglu
from tests.benchmarks.bench import Row, Table, medians, ratio, turns

THREADS = int(os.environ.get("OPENBLAS_NUM_THREADS") or os.cpu_count() or 1)
JOBS = 20  # runs of a kernel in a turn
EPSILON = 1e-5


class Sizes(NamedTuple):
    """`batch`, `heads`, `group`, `block`, `seen`: of the attention's scores."""

    tokens: int
    width: int
    inner: int
    head_dim: int
    vocabulary: int
    rows: int  # of logits
    trained: int
    scores: tuple[int, int, int, int, int]


LARGE = Sizes(32_768, 2048, 8192, 64, 128_256, 1024, 1 << 26, (8, 8, 4, 256, 2048))
SMALL = Sizes(512, 256, 704, 32, 2048, 512, 1 << 18, (4, 4, 2, 64, 128))


class Case(NamedTuple):
    """`ours`, `theirs`: run once and answer their results; `theirs` is None without torch."""

    name: str
    bytes: int
    ours: Callable[[], Any]
    theirs: Callable[[], Any] | None


class Bench:
    """Both libraries on one device, and random arrays for both."""

    def __init__(self) -> None:
        self.xp, self.device, _ = array_module()
        self.on_gpu = self.device == "cupy"
        self.sizes = LARGE if self.on_gpu else SMALL
        self.rng = np.random.default_rng(0)
        try:
            import torch
        except ImportError:
            self.torch: Any = None
        else:
            self.torch = torch
            torch.set_num_threads(THREADS)
        if self.on_gpu:
            import ml_dtypes

            self.storage = np.dtype(ml_dtypes.bfloat16)
        else:
            self.storage = np.dtype(np.float32)

    def arrays(self, *shape: int, storage: Any = None, count: int = 1) -> Iterator[tuple[Any, Any]]:
        """(ours, theirs) with the same numbers, drawn for the last axis and a part of the first, then repeated."""
        for _ in range(count):
            total = int(np.prod(shape))
            some = self.rng.normal(size=min(total, 1 << 22)).astype(np.float32)
            values = np.resize(some, total).reshape(shape).astype(storage or self.storage)
            yield self.xp.asarray(values), self.tensor(values)

    def tensor(self, values: np.ndarray) -> Any:
        if self.torch is None:
            return None
        narrow = values.dtype.name == "bfloat16"
        made = self.torch.from_numpy(values.view(np.int16) if narrow else values.copy())
        made = made.view(self.torch.bfloat16) if narrow else made
        return made.to("cuda") if self.on_gpu else made

    def wait(self) -> None:
        if self.on_gpu:
            self.xp.cuda.Device().synchronize()

    def torches(self, run: Callable[[], Any]) -> Callable[[], Any] | None:
        return None if self.torch is None else run


def run(jobs: int, rounds: int) -> tuple[list[Table], Any]:
    bench = Bench()
    rows, taken = [], {}
    for make in (norms, rotations, gates, losses, steps, softmaxes):
        for case in make(bench):
            off = checked(case)
            contenders = {"ours": partial(timed, bench, case.ours, case.bytes, jobs)}
            contenders["copy"] = partial(timed, bench, copying(bench, case.bytes), case.bytes, jobs)
            if case.theirs is not None:
                contenders["torch"] = partial(timed, bench, case.theirs, case.bytes, jobs)
            mine = taken[case.name] = turns(rounds, contenders)
            row = {"kernel": case.name, "MB": case.bytes / 1e6, "GB/s": medians(mine["ours"])["GB/s"]}
            row["÷ copy"] = ratio(mine["ours"], mine["copy"], "GB/s")
            if "torch" in mine:
                row |= {"÷ torch": ratio(mine["ours"], mine["torch"], "GB/s"), "apart": f"{off:.0e}"}
            rows.append(row)
    what = f"{bench.device}, {bench.storage.name}" + ("" if bench.on_gpu else f", torch on {THREADS} thread(s)")
    return [Table(f"Kernels that memory bounds: {what}", rows)], taken


def timed(bench: Bench, run: Callable[[], Any], size_bytes: int, times: int) -> Row:
    run()
    bench.wait()
    clock = time.perf_counter if bench.on_gpu else time.process_time
    begun = clock()
    for _ in range(times):
        run()
    bench.wait()
    return {"GB/s": times * size_bytes / (clock() - begun) / 1e9}


def copying(bench: Bench, size_bytes: int) -> Callable[[], Any]:
    """Half of the bytes are read, half written."""
    source = bench.xp.zeros(size_bytes // 8, dtype=np.float32)
    target = bench.xp.empty_like(source)
    return partial(bench.xp.copyto, target, source)


def checked(case: Case) -> float:
    """How far the results are apart, relative to the largest value; NaN without torch."""
    if case.theirs is None:
        return float("nan")
    ours = [np.array(to_host(each), np.float32) for each in case.ours()]
    theirs = [each.detach().float().cpu().numpy() for each in case.theirs()]
    off = max(
        float(np.abs(mine - its.reshape(mine.shape)).max() / np.abs(its).max())
        for mine, its in zip(ours, theirs, strict=True)
    )
    assert off < 0.02, (case.name, off)
    return off


# Cases --------------------------------------------------------------------------------------------------------------


def norms(bench: Bench) -> Iterator[Case]:
    (x, x_t), (dy, dy_t) = bench.arrays(bench.sizes.tokens, bench.sizes.width, count=2)
    ((weight, weight_t),) = bench.arrays(bench.sizes.width)
    inverse = rms_norm.forward(x, weight, EPSILON, bench.xp)[1]

    def theirs() -> Any:
        return bench.torch.nn.functional.rms_norm(x_t, weight_t.shape, weight_t, EPSILON)

    def ours() -> Any:
        return rms_norm.forward(x, weight, EPSILON, bench.xp)[:1]

    yield Case("rms_norm", 2 * x.nbytes, ours, bench.torches(lambda: (theirs(),)))
    back = gradient(bench, theirs, (x_t,), dy_t)
    yield Case("rms_norm back", 3 * x.nbytes, lambda: (rms_norm.backward(dy, x, weight, inverse, bench.xp),), back)


def rotations(bench: Bench) -> Iterator[Case]:
    length, dim = bench.sizes.tokens // 4, bench.sizes.head_dim
    ((x, x_t),) = bench.arrays(4, length, bench.sizes.width // dim, dim)
    tables = rope.tables(length, rope.frequencies(dim, 10_000.0, None), bench.xp)
    cos, sin = (bench.tensor(np.tile(to_host(table), 2).astype(x.dtype)) for table in tables)

    def theirs() -> Any:
        half = bench.torch.cat((-x_t[..., dim // 2 :], x_t[..., : dim // 2]), dim=-1)
        return (x_t * cos + half * sin,)

    yield Case("rope", 2 * x.nbytes, lambda: (rope.rotate(x, *tables, bench.xp),), bench.torches(theirs))


def gates(bench: Bench) -> Iterator[Case]:
    (gate, gate_t), (up, up_t), (dy, dy_t) = bench.arrays(bench.sizes.tokens, bench.sizes.inner, count=3)

    def theirs() -> Any:
        return bench.torch.nn.functional.silu(gate_t) * up_t

    yield Case(
        "swiglu", 3 * up.nbytes, lambda: (swiglu.forward(gate, up, bench.xp),), bench.torches(lambda: (theirs(),))
    )
    back = gradient(bench, theirs, (gate_t, up_t), dy_t)
    yield Case("swiglu back", 5 * up.nbytes, lambda: swiglu.backward(dy, gate, up, bench.xp), back)


def losses(bench: Bench) -> Iterator[Case]:
    ((logits, logits_t),) = bench.arrays(bench.sizes.rows, bench.sizes.vocabulary)
    labels = bench.rng.integers(0, bench.sizes.vocabulary, bench.sizes.rows)
    there, labels_t = bench.xp.asarray(labels), bench.tensor(labels)

    def theirs() -> Any:
        logits_t.requires_grad_()
        summed = bench.torch.nn.functional.cross_entropy(logits_t, labels_t, reduction="sum")
        return bench.torch.autograd.grad(summed, logits_t)

    def ours() -> Any:
        return cross_entropy.losses(logits, there, bench.xp)[1:]

    yield Case("cross_entropy and its gradient", 2 * logits.nbytes, ours, bench.torches(theirs))


def steps(bench: Bench) -> Iterator[Case]:
    (weight, weight_t), (gradient, gradient_t) = bench.arrays(bench.sizes.trained, storage=np.float32, count=2)
    moments = (bench.xp.zeros_like(weight), bench.xp.zeros_like(weight))
    number = 0
    if bench.torch is not None:
        weight_t.requires_grad_()
        weight_t.grad = gradient_t
        optimiser = bench.torch.optim.AdamW([weight_t], lr=1e-3, weight_decay=0.1, fused=True)

    def ours() -> Any:
        nonlocal number
        number += 1
        given = ({"a": weight}, {"a": gradient}, {"a": moments})
        adamw.step(*given, number=number, rate=1e-3, decay=0.1, factor=1.0, xp=bench.xp)
        return (weight,)

    def theirs() -> Any:
        optimiser.step()
        return (weight_t,)

    yield Case("adamw", 7 * weight.nbytes, ours, bench.torches(theirs))


def softmaxes(bench: Bench) -> Iterator[Case]:
    shape = bench.sizes.scores
    # Behind the first keys: in place, a row of few keys would grow from run to run.
    start = shape[-1] - shape[-2]
    (scores, scores_t), (again, again_t), (d_shares, d_shares_t) = bench.arrays(*shape, storage=np.float32, count=3)
    ((means, means_t),) = bench.arrays(*shape[:-1], storage=np.float32)
    mask = bench.tensor(np.triu(np.full(shape[-2:], -np.inf, np.float32), k=start + 1))
    copy = again.copy()
    log_sums = attention._softmax(copy, start, bench.xp)
    log_sums_t = bench.tensor(to_host(log_sums))

    def ours() -> Any:
        attention._softmax(scores, start, bench.xp)
        return (scores,)

    def ours_back() -> Any:
        attention._softmax_back(again, d_shares, log_sums, means, start, bench.xp)
        return again, d_shares

    def theirs_back() -> Any:
        shares = bench.torch.exp(again_t + mask - log_sums_t[..., None])
        return shares, shares * (d_shares_t - means_t[..., None])

    softmax = bench.torches(lambda: (bench.torch.softmax(scores_t + mask, dim=-1),))
    yield Case("softmax of the attention", 2 * scores.nbytes, ours, softmax)
    yield Case("softmax back", 4 * scores.nbytes, ours_back, bench.torches(theirs_back))


def gradient(bench: Bench, forward: Callable[[], Any], of: tuple[Any, ...], dy: Any) -> Callable[[], Any] | None:
    """Only the backward of what autograd has seen once."""
    if bench.torch is None:
        return None
    for tensor in of:
        tensor.requires_grad_()
    y = forward()
    return lambda: bench.torch.autograd.grad(y, of, dy, retain_graph=True)
