"""Numbers that no kernel can hold: the option is named, or the answer is right."""

import numpy as np
import pytest

import sslkernels as ssk

HUGE = 10**30
Z = np.random.default_rng(0).normal(size=(40, 3))
Y = np.arange(40) % 4

REFUSED = {
    "top_k": {"top_k": (HUGE,)},
    "few_shot": {"few_shot": HUGE},
    "few_shot_repeats": {"few_shot_repeats": HUGE, "few_shot": 1},
    "seed": {"seed": HUGE},
    "uniformity_rows": {"uniformity_rows": HUGE},
    "alpha_ranks": {"alpha_ranks": (1, HUGE)},
    "chunk_rows": {"chunk_rows": HUGE},
    "chunk_bytes": {"chunk_bytes": HUGE},
    "ignore_index": {"ignore_index": -HUGE},
    "cdnv_matrix": {"cdnv_matrix": HUGE},
}
OPTIONS = {
    "--top-k": HUGE,
    "--few-shot": HUGE,
    "--few-shot-repeats": HUGE,
    "--seed": HUGE,
    "--uniformity-rows": HUGE,
    "--chunk-rows": HUGE,
    "--chunk-mb": HUGE,
    "--ignore-label": -HUGE,
}
LARGEST = 2**63 - 1
HELD = {
    "top_k": {"top_k": (LARGEST,)},
    "seed": {"seed": LARGEST, "few_shot": 1},
    "uniformity_rows": {"uniformity_rows": LARGEST},
    "alpha_ranks": {"alpha_ranks": (1, LARGEST)},
    "chunk_rows": {"chunk_rows": LARGEST},
    "chunk_bytes": {"chunk_bytes": LARGEST},
    "ignore_index": {"ignore_index": LARGEST},
    "cdnv_matrix": {"cdnv_matrix": LARGEST},
    "few_shot": {"few_shot": LARGEST},
}


@pytest.mark.parametrize("name", REFUSED)
def test_more_than_64_bits(name):
    with pytest.raises(ValueError, match=f"^{name}: expected an int of 64 bits, got -?10{{30}}"):
        ssk.evaluate(Z, Y, **REFUSED[name])


@pytest.mark.parametrize("name", HELD)
def test_the_largest_of_64_bits(name):
    result = ssk.evaluate(Z, Y, **HELD[name])
    assert result["labels"].cdnv == ssk.evaluate(Z, Y)["labels"].cdnv
    assert result["labels"].train.top_k.get(LARGEST, 1.0) == 1.0


@pytest.mark.parametrize("option", OPTIONS)
def test_options_of_the_command_line(command, data, option):
    args = ["report", "train.npy", "--labels", "train_fine.npy"]
    code, out, err = command(*args, option, OPTIONS[option])
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {option}: ") and len(err.splitlines()) == 1
