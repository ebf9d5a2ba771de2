"""The options of ``evaluate`` are declared once; its signature and the command line agree."""

import inspect
import re
from dataclasses import fields

import numpy as np
import pytest

import sslkernels as ssk
from sslkernels.cli.options import FLAGS
from sslkernels.cli.report import report
from sslkernels.data import DataError
from sslkernels.evaluation.settings import Settings

Z = np.random.default_rng(0).normal(size=(40, 3))
Y = np.arange(40) % 4
ARGUMENTS = {
    "z", "labels", "num_classes", "superclasses", "z_test", "labels_test", "z_view", "weight",
    "bias", "device", "group", "spool", "on_rows",
}  # fmt: skip


def test_the_signature_of_evaluate_is_the_declaration():
    parameters = inspect.signature(ssk.evaluate).parameters
    declared = {option.name: option.default for option in fields(Settings)}
    assert set(parameters) == ARGUMENTS | set(declared)
    for name, default in declared.items():
        assert parameters[name].default == default, name
        assert type(parameters[name].default) is type(default), name
        assert re.search(rf"^        .*\b{name}\b.*: ", ssk.evaluate.__doc__, re.MULTILINE), name


def test_the_command_line_is_the_declaration():
    parameters = inspect.signature(report).parameters
    assert {name for name in FLAGS if name not in parameters} == set()
    for option in fields(Settings):
        assert bool(option.metadata["flag"]) == (option.name in parameters), option.name
        assert not option.metadata["flag"] or option.metadata["help"]


def test_defaults_pass_their_own_checks():
    given = {option.name: option.default for option in fields(Settings)}
    settings = Settings.checked(given)
    assert settings.cdnv_matrix == 0 and settings.top_k == (1, 5) and settings.few_shot == ()
    assert set(settings.as_dict()) < set(given)


DECIDES = {
    "top_k": (2,),
    "few_shot": 1,
    "few_shot_repeats": 3,
    "seed": 1,
    "normalize": True,
    "directional": False,
    "spectrum": False,
    "alpha_ranks": (1, 2),
    "uniformity_rows": 3,
    "ignore_index": 3,
    "skip_bad": True,
    "cdnv_matrix": True,
    "chunk_rows": 7,
}


@pytest.mark.parametrize("name", DECIDES)
def test_a_checkpoint_of_other_options_is_refused(name, tmp_path):
    ssk.evaluate(Z, Y, checkpoint=tmp_path / "c")
    with pytest.raises(DataError, match="of another run"):
        ssk.evaluate(Z, Y, checkpoint=tmp_path / "c", **{name: DECIDES[name]})
    ssk.evaluate(Z, Y, checkpoint=tmp_path / "c", checkpoint_seconds=1.0)  # which decides nothing


def test_every_option_that_decides_the_numbers_is_tried_above():
    deciding = {option.name for option in fields(Settings) if option.metadata["decides"]}
    assert deciding <= set(DECIDES)
