"""A GPU's kernels for residual streams, without a GPU: run by Triton's interpreter, compiled for two architectures."""

from __future__ import annotations

import importlib
import os
import sys
from collections import Counter
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mmdit.layers import residual_kernels, residuals
from mmdit.layers.residuals import HyperConnection
from mmdit.mmdit_generalized_pytorch import MMDiTBlock
from tests.support.draws import drawn
from tests.support.marks import slow_but

triton = pytest.importorskip("triton")  # on Linux, as an extra of the tests; elsewhere torch's operators are taken

SIZES = [(2, 3, 2, 20), (1, 4, 3, 300), (1, 2, 4, 1100)]  # b n s d: a part of a block, one and a bit, two
BATCH, TOKENS, STREAMS, DIM = SIZES[0]


@pytest.fixture(scope="module")
def kernels():
    """The kernels as Triton's interpreter runs them. It has to be asked for before anything is decorated, Triton's own
    functions among them, so that both are imported anew."""
    own = ("triton", "mmdit.layers.residual_triton")
    anew = [name for name in sys.modules if name.startswith(own) and not name.startswith("triton._C")]
    with mock.patch.dict(sys.modules), mock.patch.dict(os.environ, TRITON_INTERPRET="1"):
        for name in anew:
            del sys.modules[name]
        return importlib.import_module("mmdit.layers.residual_triton")


def draw(*shape, dtype=torch.float32):
    return torch.randn(shape).to(dtype)


def close(got, wanted, dtype=torch.float32):
    assert got.shape == wanted.shape
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(got.double(), wanted.double(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", slow_but([torch.float32, torch.bfloat16, torch.float16], torch.float32))
@pytest.mark.parametrize("size", SIZES)
def test_streams_are_mixed_and_written_to_as_the_formula_says(size, dtype, kernels):
    b, n, s, d = size
    x, out, mix, post = draw(*size, dtype=dtype), draw(b, n, d, dtype=dtype), draw(b, n, s, s), draw(b, n, s, 1)
    wide = [t.double() for t in (x, mix, post, out)]
    close(kernels.mix(mix.mT, x), wide[1].mT @ wide[0], dtype)
    close(kernels.mix(mix[..., :1].mT, x), wide[1][..., :1].mT @ wide[0], dtype)
    for gate in (None, draw(b, 1, d, dtype=dtype), draw(b, n, 6 * d, dtype=dtype).chunk(6, dim=-1)[2]):
        (wanted,) = residual_kernels._write_formula(*wide, None if gate is None else gate.double())
        close(kernels.mix(mix.mT, x, post, out, gate), wanted, dtype)
    shared = draw(s, s), draw(s, 1)  # static ones are the same for every token
    (wanted,) = residual_kernels._write_formula(wide[0], *(t.double() for t in shared), wide[3], None)
    mix, post = residual_kernels._fitted(shared, x)
    close(kernels.mix(mix.mT, x, post, out), wanted, dtype)


@pytest.mark.parametrize("dtype", slow_but([torch.float32, torch.bfloat16, torch.float16], torch.float32))
@pytest.mark.parametrize("size", SIZES)
def test_products_are_those_of_the_formula(size, dtype, kernels):
    b, n, s, d = size
    x, y, weight = draw(*size, dtype=dtype), draw(b, n, 1, d, dtype=dtype), draw(s + 2, d, dtype=dtype)
    close(kernels.dots(y, x) / d, y.double() @ x.double().mT / d)
    product, inverse_rms = kernels.normed_product(x, weight, 1e-6)
    wide = x.double()
    wanted = (wide.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
    close(inverse_rms, wanted)
    close(product / d**0.5, (wide * wanted) @ weight.double().mT / d**0.5)
    assert product.dtype == inverse_rms.dtype == torch.float32


@pytest.mark.parametrize(("size", "iterations"), [(2, 3), (3, 4), pytest.param(4, 20, marks=pytest.mark.slow), (4, 1)])
def test_sinkhorn_and_its_gradient_are_those_of_the_formula(size, iterations, kernels):
    logits, grad = 3 * draw(2, 3, size, size), draw(2, 3, size, size)
    logits[0, 0] *= 30  # some entries vanish in float32
    wide = logits.double().requires_grad_()
    wanted = residual_kernels._sinkhorn_formula(wide, iterations)
    wanted.backward(grad.double())
    close(kernels.sinkhorn(logits, iterations), wanted.detach())
    close(kernels.sinkhorn_backward(logits, grad, iterations), wide.grad)


@pytest.mark.parametrize("no_tokens", [(2, 0, 3, 8), (0, 4, 3, 8)])
def test_no_tokens_are_no_launch(no_tokens, kernels):
    b, n, s, d = no_tokens
    x = torch.zeros(no_tokens)
    assert kernels.mix(torch.zeros(b, n, 2, s), x).shape == (b, n, 2, d)
    assert kernels.dots(x, x).shape == (b, n, s, s)
    assert kernels.sinkhorn(torch.zeros(b, n, s, s), 3).shape == (b, n, s, s)


@pytest.mark.parametrize("dynamic", slow_but([True, False], True))
@pytest.mark.parametrize("manifold", slow_but([False, True], False))
def test_a_residual_on_them_has_the_values_and_gradients_of_the_formulas(manifold, dynamic, kernels, monkeypatch):
    net = drawn(HyperConnection(DIM, streams=STREAMS, dynamic=dynamic, manifold=manifold)).float()
    x, out, gate = draw(BATCH, TOKENS, STREAMS, DIM), draw(BATCH, TOKENS, DIM), draw(BATCH, 1, DIM)

    def run(dtype):
        net.to(dtype).zero_grad()
        leaves = [t.to(dtype).requires_grad_() for t in (x, out, gate)]
        branch, state = net.width(leaves[0])
        written = net.depth(state, leaves[1] * branch.sin(), leaves[2])
        written.sin().sum().backward()
        return [written.detach(), *(t.grad.clone() for t in (*leaves, *net.parameters()))]

    with monkeypatch.context() as formulas:
        for module in (residual_kernels, residuals):
            formulas.setattr(module, "is_traced", lambda x: True)
        wanted = run(torch.float64)
    taken = mock.Mock(side_effect=lambda x: kernels)
    monkeypatch.setattr(residual_kernels, "_on_gpu", taken)
    for got, right in zip(run(torch.float32), wanted, strict=True):
        close(got / right.abs().max(), right / right.abs().max())
    assert taken.called


# --------------------------------------------------------------------------------------------------------- the switch


def pretended(dtype=torch.float32, streams=4, kind="cuda"):
    x = mock.Mock(spec=torch.Tensor, dtype=dtype, device=torch.device(kind), shape=(1, 8, streams, 16))
    x.__class__ = torch.Tensor
    return x


def test_they_are_taken_where_they_can_be(monkeypatch):
    monkeypatch.setattr(residual_kernels, "_triton", lambda: "the kernels")
    monkeypatch.setattr(residual_kernels, "type", lambda x: torch.Tensor, raising=False)  # of what is pretended
    assert residual_kernels._on_gpu(pretended()) == residual_kernels._on_gpu(pretended(torch.bfloat16)) == "the kernels"
    assert residual_kernels._on_gpu(pretended(torch.float64)) is None
    assert residual_kernels._on_gpu(pretended(streams=17)) is None
    assert residual_kernels._on_gpu(pretended(kind="cpu")) is None
    monkeypatch.setattr(residual_kernels, "type", lambda x: "FakeTensor", raising=False)
    assert residual_kernels._on_gpu(pretended()) is None


@pytest.mark.parametrize("error", [ImportError("no triton"), RuntimeError("Failed to find C compiler")])
def test_where_nothing_can_be_compiled_torchs_operators_are_taken(error, monkeypatch):
    residual_kernels._triton.cache_clear()
    monkeypatch.setattr(residual_kernels, "import_module", mock.Mock(side_effect=error))
    assert residual_kernels._triton() is None
    residual_kernels._triton.cache_clear()


# ------------------------------------------------------------------------------------------------------------ compiled

HALF, FLOAT = "*bf16", "*fp32"
COMPILED = {
    "mix": (
        "mix_kernel",
        dict(weights=FLOAT, x=HALF, post=FLOAT, out=HALF, gate=HALF, result=HALF),
        dict(ROWS=4, STREAMS=4, PADDED=4, ADDS=True, GATED=True, BLOCK=1024),
    ),
    "dots": (
        "dots_kernel",
        dict(x=HALF, y=HALF, result=FLOAT, inverse_rms=FLOAT, eps="fp32"),
        dict(ROWS=4, COLUMNS=6, PADDED_ROWS=4, PADDED_COLUMNS=8, NORMED=True, BLOCK=256),
    ),
    "sinkhorn": (
        "sinkhorn_kernel",
        dict(logits=FLOAT, grad=FLOAT, result=FLOAT, history=FLOAT),
        dict(SIZE=4, PADDED=4, BACKWARD=True, BLOCK=128),
    ),
}


@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")
@pytest.mark.parametrize("capability", slow_but([80, 90], 80))
@pytest.mark.parametrize("name", slow_but(COMPILED, "mix"))
def test_they_compile_for_gpus_without_spilling(name, capability, tmp_path, monkeypatch):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel_name, types, constants = COMPILED[name]
    kernel = getattr(importlib.import_module("mmdit.layers.residual_triton"), kernel_name)
    names = kernel.arg_names
    signature = {each: "constexpr" if each in constants else types.get(each, "i32") for each in names}
    given = {(names.index(each),): value for each, value in constants.items()}
    done = triton.compile(ASTSource(kernel, signature, constexprs=given), target=GPUTarget("cuda", capability, 32))
    assert f".target sm_{capability}" in done.asm["ptx"]
    assert ".local" not in done.asm["ptx"]
    assert done.metadata.shared <= 48 << 10


# ------------------------------------------------------------------------------------------------------------ launches


class Launches(TorchDispatchMode):
    """Operators that a GPU runs as a kernel: views and allocations apart."""

    def __init__(self):
        super().__init__()
        self.names = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__
        if not func.is_view and not name.startswith(("empty", "new_empty", "_unsafe_view", "detach", "promote_types")):
            self.names[name] += 1
        return func(*args, **(kwargs or {}))

    def stand_ins(self):
        """The kernels, each of which counts as one launch and gives what it would, without a value."""

        def counted(make):
            def launch(*args):
                self.names[f"triton.{make.__name__}"] += 1
                return make(*args)

            return launch

        def mix(weights, x, *rest):
            return x.new_empty(*x.shape[:-2], weights.shape[-2], x.shape[-1])

        def dots(x, y):
            return x.new_empty(*x.shape[:-1], y.shape[-2], dtype=torch.float32)

        def normed_product(x, weight, eps):
            return dots(x, weight), dots(x, x[..., :1, :])

        def sinkhorn(logits, iterations):
            return torch.empty_like(logits)

        def sinkhorn_backward(logits, grad, iterations):
            return torch.empty_like(logits)

        return SimpleNamespace(
            **{f.__name__: counted(f) for f in (mix, dots, normed_product, sinkhorn, sinkhorn_backward)}
        )


def launches(monkeypatch, **options) -> tuple[int, int]:
    """Of a block of two modalities, forward and backward, as a GPU would run it; the meta device stands in for it."""
    net = MMDiTBlock(dim_modalities=(16, 16), dim_cond=8, heads=2, dim_head=8, **options).to("meta", torch.bfloat16)
    streams = (4,) if options else ()
    tokens = [torch.empty(1, n, *streams, 16, dtype=torch.bfloat16, device="meta", requires_grad=True) for n in (4, 6)]
    count = Launches()
    kernels = count.stand_ins()
    for module in (residual_kernels, residuals):
        monkeypatch.setattr(module, "is_traced", lambda x: False)
    monkeypatch.setattr(residual_kernels, "_on_gpu", lambda x: kernels)
    attention = mock.patch.object(net.joint_attn.attend, "forward", lambda q, *_, **__: torch.empty_like(q))
    with attention, count:
        outs = net(modality_tokens=tokens, time_cond=torch.empty(1, 8, dtype=torch.bfloat16, device="meta"))
        forward = count.names.total()
        torch.autograd.backward(outs, [torch.empty_like(out) for out in outs])
    return forward, count.names.total() - forward


def test_a_block_of_streams_launches_about_three_times_as_much_as_a_plain_one(monkeypatch):
    """Before, it was 135 forward for hyper-connections, and 459 for constrained ones."""
    plain = launches(monkeypatch)
    free = launches(monkeypatch, num_residual_streams=4, residual="hyper_connections")
    constrained = launches(monkeypatch, num_residual_streams=4, residual="manifold_hyper_connections")
    assert plain[0] <= 32 and free[0] <= 80 and constrained[0] <= 90
    assert free[1] <= 300 and constrained[1] <= 320
