"""The modules of our own against what they say they are: torch's own, the papers' formulas, each other."""

import pytest
import torch
from torch import nn

from builder.blocks.attention import PatchEmbedding, PositionalEncoding, SelfAttention, TokensToMaps, TransformerBlock
from builder.blocks.convolution import Conv3d, ConvTranspose3d, SeparableConv2d
from builder.blocks.gating import CBAM, SqueezeExcite
from builder.blocks.join import Multiply
from builder.blocks.pooling import AdaptivePool3d, AttentionPool, GlobalPool, LpPool, TimePool
from builder.blocks.recurrent import Recurrent, RowsAsSequence, SlicesAsChannels, SlicesAsSequence

KINDS = ["RNN", "LSTM", "GRU"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_recurrent_layer_computes_what_torchs_own_computes(kind: str, bidirectional: bool) -> None:
    ours = Recurrent(5, kind, 7, 2, bidirectional, output="all states").eval()
    theirs = getattr(nn, kind)(5, 7, 2, batch_first=True, bidirectional=bidirectional).eval()
    names = [f"l{k}{side}" for k in range(2) for side in ("", "_reverse")[: 1 + bidirectional]]
    for name, run in zip(names, ours.runs, strict=True):
        for key, value in run.named_parameters():
            getattr(theirs, key.replace("l0", name)).data = value.data
    x = torch.randn(3, 6, 5)
    torch.testing.assert_close(ours(x), theirs(x)[0])
    ours.output = "last state"
    state = theirs(x)[1]
    last = (state[0] if kind == "LSTM" else state)[-1 - bidirectional :]
    torch.testing.assert_close(ours(x), torch.cat(list(last), dim=1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_truncated_back_propagation_leaves_the_answer_and_stops_the_gradient(
    kind: str, layers: int, bidirectional: bool
) -> None:
    """With bptt = 3 the last state of 8 steps learns from 3 steps of each direction, and from no step before them."""
    whole = Recurrent(5, kind, 7, layers, bidirectional)
    cut = Recurrent(5, kind, 7, layers, bidirectional, bptt=3)
    asked = Recurrent(5, kind, 7, layers, bidirectional, bptt=3).eval()
    reached = {}
    for name, net in (("whole", whole), ("cut", cut), ("asked", asked)):
        net.load_state_dict(whole.state_dict())
        x = torch.randn(2, 8, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
        out = net(x)
        out.square().sum().backward()
        assert x.grad is not None
        reached[name] = out.detach(), x.grad.abs().sum((0, 2)) > 0, x.grad
    for name in ("cut", "asked"):
        torch.testing.assert_close(reached[name][0], reached["whole"][0], rtol=0, atol=1e-6)
    assert reached["whole"][1].all()
    torch.testing.assert_close(reached["asked"][2], reached["whole"][2])  # Grad-CAM hears every step
    assert reached["cut"][1].tolist() == [t >= 5 or (bidirectional and t < 3) for t in range(8)]


@pytest.mark.parametrize("bptt", [1, 3, 7, 8, 20])
def test_all_states_are_the_same_for_every_truncation(bptt: int) -> None:
    nets = [Recurrent(4, "LSTM", 6, 2, True, output="all states", bptt=k) for k in (0, bptt)]
    nets[1].load_state_dict(nets[0].state_dict())
    x = torch.randn(2, 8, 4)
    torch.testing.assert_close(nets[0](x), nets[1](x), rtol=0, atol=1e-6)


def test_a_recurrent_layer_knows_the_order_and_a_mean_over_time_does_not() -> None:
    x = torch.randn(2, 6, 4)
    gru = Recurrent(4, "GRU", 8)
    assert not torch.allclose(gru(x), gru(x.flip(1)), atol=1e-3)
    torch.testing.assert_close(TimePool("average")(x), TimePool("average")(x.flip(1)))


def test_rows_columns_and_slices_are_laid_out_in_order() -> None:
    picture = torch.arange(24.0).reshape(1, 2, 3, 4)
    assert torch.equal(RowsAsSequence()(picture)[0, 1], torch.cat([picture[0, 0, 1], picture[0, 1, 1]]))
    assert torch.equal(RowsAsSequence("columns")(picture)[0, 2], torch.cat([picture[0, 0, :, 2], picture[0, 1, :, 2]]))
    volume = torch.rand(1, 2, 5, 3, 4)
    series = SlicesAsSequence()(volume)
    assert torch.equal(series[:, 3], volume[:, :, 3]) and torch.equal(SlicesAsSequence()(series), volume)
    assert torch.equal(SlicesAsChannels()(series)[:, 2:4], series[:, 1])


def test_poolings_over_time_and_places_keep_what_they_say() -> None:
    x = torch.randn(2, 5, 3)
    assert torch.equal(TimePool("last")(x), x[:, -1]) and torch.equal(TimePool("first")(x), x[:, 0])
    assert torch.equal(TimePool("both")(x), torch.cat([x.mean(1), x.amax(1)], 1))
    volume = torch.randn(2, 3, 4, 5, 6)
    torch.testing.assert_close(
        GlobalPool("both")(volume), torch.cat([volume.mean((2, 3, 4)), volume.amax((2, 3, 4))], 1)
    )
    torch.testing.assert_close(LpPool(3.0)(volume), nn.LPPool3d(3.0, 2, 2)(volume.abs()), rtol=1e-4, atol=1e-4)
    picture = torch.randn(2, 3, 6, 6)
    torch.testing.assert_close(LpPool(2.0, 3, 1)(picture), nn.LPPool2d(2.0, 3, 1)(picture), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["average", "maximum"])
@pytest.mark.parametrize("depth", [2, 4])
def test_pooling_a_volume_to_a_size_is_torchs_own_whether_it_divides_or_not(kind: str, depth: int) -> None:
    x = torch.randn(2, 3, 6, 8, 12)
    theirs = (nn.AdaptiveAvgPool3d if kind == "average" else nn.AdaptiveMaxPool3d)((depth, 4, 4))
    torch.testing.assert_close(AdaptivePool3d(depth, 4, kind)(x), theirs(x))


def test_lp_pooling_of_nothing_but_zeros_has_a_finite_gradient() -> None:
    for p in (1.0, 2.0, 3.5, 8.0):
        x = torch.zeros(1, 1, 4, 4, requires_grad=True)
        LpPool(p)(x).sum().backward()
        assert x.grad is not None and torch.isfinite(x.grad).all()


def test_attention_pooling_is_a_weighted_mean_that_favours_what_scores_high() -> None:
    pool = AttentionPool(3, 4, gated=True)
    x = torch.randn(2, 6, 3)
    low, high = x.amin(1), x.amax(1)
    assert ((pool(x) >= low - 1e-6) & (pool(x) <= high + 1e-6)).all()
    nn.init.zeros_(pool.score.weight)
    torch.testing.assert_close(pool(x), x.mean(1))


def test_self_attention_computes_what_torchs_own_computes() -> None:
    ours, theirs = SelfAttention(8, 2).eval(), nn.MultiheadAttention(8, 2, batch_first=True).eval()
    parts = (ours.query, ours.key, ours.value)
    theirs.in_proj_weight.data = torch.cat([p.weight.data for p in parts])
    theirs.in_proj_bias.data = torch.cat([p.bias.data for p in parts])
    theirs.out_proj.load_state_dict(ours.out.state_dict())
    x = torch.randn(3, 5, 8)
    torch.testing.assert_close(ours(x), theirs(x, x, x)[0], rtol=1e-4, atol=1e-5)


def test_a_transformer_block_computes_what_torchs_own_computes() -> None:
    ours = TransformerBlock(8, 2, 4).eval()
    theirs = nn.TransformerEncoderLayer(8, 2, 32, activation="gelu", batch_first=True, norm_first=True).eval()
    parts = (ours.query, ours.key, ours.value)
    theirs.self_attn.in_proj_weight.data = torch.cat([p.weight.data for p in parts])
    theirs.self_attn.in_proj_bias.data = torch.cat([p.bias.data for p in parts])
    for mine, other in (
        (ours.out, theirs.self_attn.out_proj),
        (ours.norm1, theirs.norm1),
        (ours.norm2, theirs.norm2),
        (ours.mlp[0], theirs.linear1),
        (ours.mlp[2], theirs.linear2),
    ):
        other.load_state_dict(mine.state_dict())
    x = torch.randn(3, 5, 8)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_attention_does_not_know_the_order_until_positions_are_added() -> None:
    attend, x = SelfAttention(8, 2).eval(), torch.randn(1, 6, 8)
    torch.testing.assert_close(attend(x).flip(1), attend(x.flip(1)), rtol=1e-4, atol=1e-5)
    for kind in ("sinusoidal", "learned"):
        placed = PositionalEncoding(6, 8, kind)
        assert not torch.allclose(attend(placed(x)).flip(1), attend(placed(x.flip(1))), atol=1e-4)


def test_sinusoidal_positions_are_those_of_the_paper() -> None:
    placed = PositionalEncoding(7, 6)(torch.zeros(1, 7, 6))[0]
    torch.testing.assert_close(placed[5, 4], torch.tensor(5 / 10_000 ** (4 / 6)).sin())
    torch.testing.assert_close(placed[5, 3], torch.tensor(5 / 10_000 ** (2 / 6)).cos())


def test_patches_are_numbered_row_by_row_and_laid_back_out() -> None:
    embed, picture = PatchEmbedding(1, 4, 3), torch.randn(1, 1, 8, 12)
    tokens = embed(picture)
    torch.testing.assert_close(tokens[:, 4], embed(picture[:, :, 4:8, 4:8])[:, 0])
    maps = TokensToMaps(2)(tokens)
    assert maps.shape == (1, 3, 2, 3)
    assert torch.equal(maps[0, :, 1, 1], tokens[0, 4])


def test_a_separable_convolution_is_a_full_one_of_rank_one_filters() -> None:
    net, x = SeparableConv2d(3, 4, bias=False), torch.randn(1, 3, 6, 6)
    filters = net.pointwise.weight * net.depthwise.weight.transpose(0, 1)
    torch.testing.assert_close(net(x), nn.functional.conv2d(x, filters, padding=1), rtol=1e-4, atol=1e-5)


def test_a_depth_of_its_own_is_torchs_own_window_and_the_way_back_up_restores_the_size() -> None:
    x = torch.randn(2, 3, 5, 12, 12)
    flat = Conv3d(3, 4, 3, 2, 1, depth_kernel_size=1, depth_stride=1)
    theirs = nn.Conv3d(3, 4, (1, 3, 3), (1, 2, 2), (0, 1, 1))
    theirs.load_state_dict(flat.state_dict())
    torch.testing.assert_close(flat(x), theirs(x), rtol=0, atol=0)
    x2 = x.clone()
    x2[:, :, 0] = 0
    assert torch.equal(flat(x)[:, :, 1:], flat(x2)[:, :, 1:]), "each slice alone"
    assert Conv3d(3, 4, 3, 2, 1)(x).shape == nn.Conv3d(3, 4, 3, 2, 1)(x).shape
    for depth in (0, 1):
        up = ConvTranspose3d(4, 3, 3, 2, 1, 1, depth_kernel_size=depth, depth_stride=1)
        assert up(flat(x)).shape == x.shape


def test_gates_only_weigh_between_nothing_and_all() -> None:
    x = torch.rand(2, 8, 5, 5) + 0.1
    for gate in (SqueezeExcite(8, 4), CBAM(8, 4)):
        shares = gate.eval()(x) / x
        assert (shares > 0).all() and (shares < 1).all()
    volume = torch.rand(2, 8, 3, 5, 5)
    assert SqueezeExcite(8, 4)(volume).shape == volume.shape


def test_multiply_stretches_sides_of_one_and_refuses_others_in_words() -> None:
    x, gate = torch.randn(2, 8, 5, 5), torch.rand(2, 1, 5, 5)
    assert torch.equal(Multiply()(x, gate), x * gate)
    with pytest.raises(ValueError, match=r"it got \(8, 5, 5\) and \(8, 4, 4\)\."):
        Multiply()(x, x[:, :, :4, :4])
    with pytest.raises(ValueError, match=r"one shape"):
        Multiply()(x, x.mean((2, 3)))
