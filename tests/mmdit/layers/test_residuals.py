from __future__ import annotations

import pytest
import torch
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from mmdit.layers.residual_kernels import sinkhorn_knopp
from mmdit.layers.residuals import (
    ExpandStreams,
    HyperConnection,
    PlainResidual,
    ReduceStreams,
)
from mmdit.networks.transformer import MMDiT
from mmdit.options import ResidualOptions
from tests.support import oracles
from tests.support.draws import drawn, randn

STREAMS, DIM, BATCH, LENGTH = 3, 8, 2, 5
published = pytest.importorskip("hyper_connections", reason="the published implementation is in the test extra")


def spread(x):
    """Our streams `b n s d` as the package folds them, `(b s) n d`."""
    return x.permute(0, 2, 1, 3).flatten(0, 1)


def folded(x):
    return x.unflatten(0, (BATCH, STREAMS)).permute(0, 2, 1, 3)


def copy_into(package, ours):
    """The package's parameters from ours; its norm's weight is 1 + gamma."""
    width = ours.width
    package.double()
    with torch.no_grad():
        package.static_alpha.copy_(torch.cat([width.pre, width.mix], 1))
        package.norm.gamma.copy_(width.norm.weight - 1)
        weight = width.to_shift.weight.T
        package.dynamic_alpha_fn.copy_(weight[:, : STREAMS + 1].reshape(package.dynamic_alpha_fn.shape))
        package.dynamic_beta_fn.copy_(weight[:, STREAMS + 1].reshape(package.dynamic_beta_fn.shape))
        package.static_beta.copy_(width.post.reshape(package.static_beta.shape))
    return package


def test_hyper_connections_are_the_published_ones():
    ours = drawn(HyperConnection(DIM, streams=STREAMS))
    package = copy_into(published.HyperConnections(STREAMS, dim=DIM), ours)
    with torch.no_grad():
        package.dynamic_alpha_scale.copy_(ours.width.scales[0])
        package.dynamic_beta_scale.copy_(ours.width.scales[1])
    x, out = randn(BATCH, LENGTH, STREAMS, DIM), randn(BATCH, LENGTH, DIM)
    branch, state = ours.width(x)
    their_branch, add = package(spread(x))
    torch.testing.assert_close(branch, their_branch, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.depth(state, out), folded(add(out)), rtol=1e-5, atol=1e-6)


def test_manifold_hyper_connections_are_the_published_ones():
    from hyper_connections.manifold_constrained_hyper_connections import ManifoldConstrainedHyperConnections

    ours = drawn(HyperConnection(DIM, streams=STREAMS, manifold=True))
    package = copy_into(ManifoldConstrainedHyperConnections(STREAMS, dim=DIM), ours)
    with torch.no_grad():
        for scale, theirs in zip(
            ours.width.scales, (package.pre_branch_scale, package.residual_scale, package.h_post_scale), strict=True
        ):
            theirs.copy_(scale.reshape(theirs.shape))
    x, out = randn(BATCH, LENGTH, STREAMS, DIM), randn(BATCH, LENGTH, DIM)
    branch, state = ours.width(x)
    their_branch, add = package(spread(x))  # which computes in float32
    torch.testing.assert_close(branch, their_branch, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.depth(state, out), folded(add(out)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("manifold", [False, True])
@pytest.mark.parametrize("dynamic", [False, True])
def test_streams_are_read_mixed_and_written_by_the_formula(dynamic, manifold):
    net = drawn(HyperConnection(DIM, streams=STREAMS, dynamic=dynamic, manifold=manifold))
    x, out, gate = randn(BATCH, LENGTH, STREAMS, DIM), randn(BATCH, LENGTH, DIM), randn(BATCH, 1, DIM)
    wanted, add = oracles.residual(net.width.state_dict(), x, manifold)
    branch, state = net.width(x)
    torch.testing.assert_close(branch, wanted)
    torch.testing.assert_close(net.depth(state, out, gate), add(gate * out))
    torch.testing.assert_close(net.depth(state, out), add(out))


@pytest.mark.parametrize("manifold", [False, True])
@pytest.mark.parametrize("dynamic", [False, True])
def test_gradients_are_those_of_the_formula(dynamic, manifold):
    net = drawn(HyperConnection(DIM, streams=STREAMS, dynamic=dynamic, manifold=manifold))
    weights = dict(net.width.named_parameters())
    given = [randn(BATCH, LENGTH, STREAMS, DIM), randn(BATCH, LENGTH, DIM), randn(BATCH, 1, DIM)]
    x, out, gate = given = [value.requires_grad_() for value in given]
    wanted, add = oracles.residual(weights, x, manifold)
    expected = torch.autograd.grad(add(gate * out + wanted.cos()).sin().sum(), [*given, *weights.values()])
    branch, state = net.width(x)
    got = torch.autograd.grad(
        net.depth(state, out + branch.cos() / gate, gate).sin().sum(), [*given, *weights.values()]
    )
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("writes", [False, True])
@pytest.mark.parametrize("manifold", [False, True])
def test_gradients_are_the_numerical_ones(manifold, writes):
    net = drawn(HyperConnection(3, streams=2, manifold=manifold, writes=writes))
    given = [randn(2, 2, 2, 3), randn(2, 2, 3), randn(2, 2, 3), *(p.detach() for p in net.parameters())]

    def run(x, out, gate, *weights):
        named = dict(zip((name for name, _ in net.width.named_parameters()), weights, strict=True))
        branch, state = torch.func.functional_call(net.width, named, (x,))
        return (branch, net.depth(state, out + branch, gate)) if writes else branch

    assert torch.autograd.gradcheck(run, [value.requires_grad_() for value in given])


@pytest.mark.parametrize("manifold", [False, True])
def test_a_branch_keeps_its_streams_once_for_the_backward_pass(manifold):
    """Beside them: the branch's output, for each stream 12 numbers (6 products, what they were normed by, 4 + 1 weights
    to mix and write with), and the parameters, with the norm's in the projection."""
    net, kept = HyperConnection(64, streams=4, manifold=manifold), {}
    x, out = torch.randn(2, 32, 4, 64, requires_grad=True), torch.randn(2, 32, 64, requires_grad=True)

    def keep(value):
        kept[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        _, state = net.width(x)
        net.depth(state, out)
    parameters = sum(p.nbytes for p in net.parameters()) + net.width.to_shift.weight.nbytes
    assert sum(kept.values()) == x.nbytes + out.nbytes + 4 * 12 * (2 * 32 * 4) + parameters


@pytest.mark.parametrize("manifold", [False, True])
def test_streams_keep_their_precision_under_autocast(manifold):
    net = drawn(HyperConnection(DIM, streams=STREAMS, manifold=manifold)).float()
    x, out = randn(BATCH, LENGTH, STREAMS, DIM).float(), randn(BATCH, LENGTH, DIM).bfloat16()
    branch, state = net.width(x)
    with torch.autocast("cpu", torch.bfloat16):
        mixed, mixed_state = net.width(x)
        torch.testing.assert_close(mixed, branch, rtol=0, atol=0)
        torch.testing.assert_close(net.depth(mixed_state, out), net.depth(state, out.float()), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("manifold", [False, True])
def test_half_precision_is_near_float32_where_squares_would_overflow(manifold, dtype):
    net = drawn(HyperConnection(64, streams=4, manifold=manifold)).to(dtype)
    given = [1000 * randn(1, 200, 4, 64).to(dtype), randn(1, 200, 64).to(dtype)]

    def run(net, x, out):
        x, out = x.detach().requires_grad_(), out.detach().requires_grad_()
        branch, state = net.width(x)
        written = net.depth(state, out)
        ((written.float() / 1000).square().sum() * 500).backward()
        return branch, written, x.grad, out.grad

    half = run(net, *given)
    for a, b in zip(half, run(net.float(), *(value.float() for value in given)), strict=True):
        assert a.dtype == dtype and ((a.float() - b).norm() / b.norm()) < 0.02


@pytest.mark.parametrize("manifold", [False, True])
@pytest.mark.parametrize("dynamic", [False, True])
def test_without_writes_it_reads_the_same_and_holds_no_other_weight(dynamic, manifold):
    options = dict(streams=STREAMS, dynamic=dynamic, manifold=manifold)
    full, lean = drawn(HyperConnection(DIM, **options)).width, HyperConnection(DIM, writes=False, **options).width
    state = {name: x for name, x in full.state_dict().items() if name in lean.state_dict()}
    if dynamic:
        state |= {"scales": state["scales"][:1], "to_shift.weight": state["to_shift.weight"][:1]}
    lean.double().load_state_dict(state)
    x = randn(BATCH, LENGTH, STREAMS, DIM)
    (branch, nothing), (wanted, _) = lean(x), full(x)
    assert nothing is None
    torch.testing.assert_close(branch, wanted)
    branch.sin().sum().backward()
    assert all(p.grad.abs().max() > 1e-9 for p in lean.parameters())


def test_sinkhorn_makes_rows_and_columns_add_up_to_one():
    logits = randn(7, 4, 4)
    matrix = sinkhorn_knopp(logits, iterations=200)
    torch.testing.assert_close(matrix.sum(-1), torch.ones(7, 4).double())
    torch.testing.assert_close(matrix.sum(-2), torch.ones(7, 4).double())
    assert (matrix >= 0).all()
    torch.testing.assert_close(matrix, oracles.sinkhorn(logits, 200))


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("streams", [2, 4])
def test_the_mix_of_every_token_has_rows_and_columns_that_add_up_to_one(streams, dynamic):
    width = drawn(HyperConnection(DIM, streams=streams, dynamic=dynamic, manifold=True)).width
    _, mix, _ = width.coefficients(randn(BATCH, LENGTH, streams, DIM))
    assert mix.shape == (*((BATCH, LENGTH) if dynamic else ()), streams, streams)
    assert (mix > 0).all()
    torch.testing.assert_close(mix.sum(-1), torch.ones_like(mix[..., 0]), rtol=0, atol=1e-12)
    torch.testing.assert_close(mix.sum(-2), torch.ones_like(mix[..., 0]), rtol=0, atol=1e-2)  # 20 rounds


def test_sinkhorn_in_float32_is_that_of_the_logarithms():
    logits = 30 * torch.randn(500, 4, 4, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    exact = logits.double()
    for _ in range(20):
        exact = exact.log_softmax(-2).log_softmax(-1)
    torch.testing.assert_close(sinkhorn_knopp(logits).double(), exact.exp(), rtol=0, atol=2e-6)


@pytest.mark.parametrize("shape", [(3, 3), (2, 5, 3, 3)])
def test_sinkhorns_gradients_are_the_numerical_ones(shape):
    assert torch.autograd.gradcheck(sinkhorn_knopp, [(3 * randn(*shape)).requires_grad_()])


@pytest.mark.parametrize("iterations", [1, 2, 5])
def test_sinkhorn_stops_after_the_rounds_it_is_given(iterations):
    logits = randn(7, 3, 3).requires_grad_()
    matrix, wanted = sinkhorn_knopp(logits, iterations), oracles.sinkhorn(logits, iterations)
    torch.testing.assert_close(matrix, wanted)
    grads = [torch.autograd.grad(m.sin().sum(), logits)[0] for m in (matrix, wanted)]
    torch.testing.assert_close(*grads)


def test_sinkhorn_divides_by_no_sum_that_vanishes():
    matrix = sinkhorn_knopp(torch.tensor([[300.0, -300.0], [300.0, -300.0]]))
    torch.testing.assert_close(matrix, torch.full((2, 2), 0.5))


def test_sinkhorn_survives_large_logits():
    logits = torch.tensor([[300.0, -300.0], [-300.0, 300.0]]).requires_grad_()
    matrix = sinkhorn_knopp(logits)
    matrix.square().sum().backward()
    torch.testing.assert_close(matrix, torch.eye(2))
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("manifold", [False, True])
@pytest.mark.parametrize("layer", [0, 1, 2, 3])
def test_at_the_start_a_layer_reads_one_stream_mixes_none_and_writes_all(layer, manifold):
    net = HyperConnection(DIM, streams=STREAMS, layer_index=layer, manifold=manifold).double()
    x, out = randn(BATCH, LENGTH, STREAMS, DIM), randn(BATCH, LENGTH, DIM)
    branch, state = net.width(x)
    near = dict(rtol=0, atol=2e-2) if manifold else {}
    torch.testing.assert_close(branch, x[:, :, layer % STREAMS], **near)
    torch.testing.assert_close(net.depth(state, out), x + out[:, :, None], **near)


@pytest.mark.parametrize("manifold", [False, True])
def test_the_mix_of_a_manifold_is_near_the_identity_at_the_start(manifold):
    width = HyperConnection(DIM, streams=4, manifold=manifold).width
    _, mix, _ = width.coefficients(torch.randn(1, 1, 4, DIM))
    torch.testing.assert_close(mix.squeeze(), torch.eye(4), rtol=0, atol=1e-2)


@pytest.mark.parametrize("residual", ["hyper_connections", "manifold_hyper_connections"])
def test_a_fresh_network_with_streams_is_the_plain_one_times_the_streams(residual):
    sizes = dict(depth=2, dim_modalities=(8, 6), heads=2, dim_head=4, final_norms=False)
    plain = MMDiT(**sizes).double()
    net = MMDiT(**sizes, num_residual_streams=STREAMS, residual=residual).double()
    missing, unexpected = net.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and all("width" in name for name in missing)
    xs = (randn(2, 4, 8), randn(2, 3, 6))
    for a, b in zip(net(modality_tokens=xs), plain(modality_tokens=xs), strict=True):
        torch.testing.assert_close(a / STREAMS, b, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "streams", "message"),
    [
        (
            "highway",
            2,
            "kind: expected one of plain, nested, hyper_connections, manifold_hyper_connections, got 'highway'",
        ),
        ("plain", 2, "streams: kind 'plain' has 1 stream, got 2; set kind: hyper_connections"),
        ("plain", 0, "streams: expected a number >= 1, got 0"),
        ("hyper_connections", 1, "streams: kind 'hyper_connections' needs at least 2 streams, got 1"),
        ("manifold_hyper_connections", 0, "streams: expected a number >= 1, got 0"),
        ("hyper_connections", -1, "streams: expected a number >= 1, got -1"),
    ],
)
def test_kinds_and_streams_that_do_not_fit_are_refused(kind, streams, message):
    with pytest.raises(ValueError, match=message):
        ResidualOptions(kind=kind, streams=streams)


def test_streams_are_copies_at_the_start_and_a_sum_at_the_end():
    x = randn(2, 3, 4)
    streams = ExpandStreams(3)(x)
    assert streams.shape == (2, 3, 3, 4)
    assert all(torch.equal(streams[:, :, i], x) for i in range(3))
    torch.testing.assert_close(ReduceStreams(3)(streams), 3 * x)
    assert ExpandStreams(1)(x) is x and ReduceStreams(1)(x) is x


def test_coefficients_of_a_manifold_are_computed_in_float32():
    width = HyperConnection(DIM, streams=4, manifold=True).bfloat16().width
    assert all(c.dtype == torch.float32 for c in width.coefficients(torch.randn(1, 2, 4, DIM).bfloat16()))


def test_the_plain_residual_adds_the_gated_branch():
    net, x, out, gate = PlainResidual(), randn(2, 3, 4), randn(2, 3, 4), randn(2, 1, 4)
    branch, state = net.width(x)
    assert branch is x
    torch.testing.assert_close(net.depth(state, out, gate), x + gate * out)
    torch.testing.assert_close(net.depth(state, out), x + out)


@pytest.mark.parametrize("residual", ["hyper_connections", "manifold_hyper_connections"])
def test_vmap_and_forward_derivatives_go_through(residual):
    net = drawn(MMDiT(depth=1, dim_modalities=(4, 6), heads=2, dim_head=4, num_residual_streams=2, residual=residual))
    text, image, along = randn(3, 2, 4), randn(3, 5, 6), randn(3, 5, 6)

    def out(image):
        return net(modality_tokens=(text, image))[1]

    eps = 1e-6
    wanted = (out(image + eps * along) - out(image - eps * along)) / (2 * eps)
    with sdpa_kernel(SDPBackend.MATH):
        _, got = torch.func.jvp(out, (image,), (along,))
        with forward_ad.dual_level():
            dual = forward_ad.unpack_dual(out(forward_ad.make_dual(image, along))).tangent
        weights = dict(net.named_parameters())

        def loss(weights, text, image):
            call = dict(modality_tokens=(text[None], image[None]))
            return torch.func.functional_call(net, weights, (), call)[1].square().sum()

        each = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(weights, text, image)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(dual, got)
    out(image).square().sum().backward()
    for name, weight in net.named_parameters():
        if weight.grad is not None:
            torch.testing.assert_close(each[name].sum(0), weight.grad, msg=name)
