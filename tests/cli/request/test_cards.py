"""Cards, budgets and the numbers they are given in."""

from __future__ import annotations

import pytest

from mmdit_cli.errors import UserError
from mmdit_cli.request.cards import CARDS, Card, find_card
from mmdit_cli.request.numbers import read_number, read_share

# cores (SM or CU), 16-bit multiply-adds a core and clock, boost clock in GHz: what the chips' own papers say they are
CHIPS = {
    "a100": (108, 1024, 1.410),
    "a100-40": (108, 1024, 1.410),
    "h100": (132, 2048, 1.830),
    "h100-pcie": (114, 2048, 1.620),
    "h200": (132, 2048, 1.830),
    "b200": (148, 4096, 1.860),
    "l40s": (142, 512, 2.520),
    "rtx4090": (128, 256, 2.520),
    "mi300x": (304, 1024, 2.100),
}


@pytest.mark.parametrize("name", CARDS)
def test_the_dense_peak_is_what_the_chip_can_do_at_its_clock(name):
    cores, multiply_adds, clock = CHIPS[name]
    peak = cores * multiply_adds * 2 * clock * 1e9
    assert find_card(name, "bf16").flops_per_s == pytest.approx(peak, rel=0.02)
    assert find_card(name, "fp16").flops_per_s == find_card(name, "bf16").flops_per_s


@pytest.mark.parametrize("name", CARDS)
def test_a_wider_type_is_never_faster(name):
    wide = [find_card(name, precision).flops_per_s for precision in ("fp32", "tf32", "bf16")]
    assert wide == sorted(wide)


@pytest.mark.parametrize("text", ["RTX 4090", "rtx-4090", "rtx4090"])
def test_a_card_is_found_however_it_is_spelled(text):
    assert find_card(text, "bf16") == Card("rtx4090", "bf16", 165.2e12)


def test_a_precision_of_its_own_stands_after_a_colon():
    assert find_card("H100:TF32", "fp32") == Card("h100", "tf32", 494.7e12)
    assert find_card("h100", "fp32") == Card("h100", "fp32", 66.9e12)


@pytest.mark.parametrize(
    ("text", "message"), [("h10", "did you mean h100"), ("tpu", "Known: a100"), ("h100:fp8", "fp8")]
)
def test_an_unknown_card_is_told_which_there_are(text, message):
    with pytest.raises(UserError, match=message):
        find_card(text, "bf16")


def test_numbers_and_shares_are_read_as_people_write_them():
    assert [read_number(text, "--x") for text in ("1e9", "250_000", "5E22", "0.5")] == [1e9, 250_000, 5e22, 0.5]
    assert [read_share(text, "--x") for text in ("40%", "0.4", "100%", "1", " 12.5% ")] == [0.4, 0.4, 1, 1, 0.125]


@pytest.mark.parametrize("text", ["0", "-1e9", "nan", "inf", "many", "", "1e9 images"])
def test_what_is_no_number_above_0_is_refused_with_its_option(text):
    with pytest.raises(UserError, match=r"--images .*1e9"):
        read_number(text, "--images")


@pytest.mark.parametrize("text", ["0", "0%", "101%", "40", "-1%", "40%%", "40% of it", "nan", ""])
def test_what_is_no_share_is_refused_with_its_option(text):
    with pytest.raises(UserError, match=r"--utilization .*40%"):
        read_share(text, "--utilization")


def test_half_a_sample_is_refused():
    with pytest.raises(UserError, match="whole number"):
        read_number("1.5", "--images", whole=True)
