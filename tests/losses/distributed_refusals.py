"""Scenarios of ``distributed_worker.py`` in which ranks do not agree, or refuse."""

from __future__ import annotations

from functools import partial

import torch
import torch.distributed as dist
from torch.autograd import forward_ad

from sslkernels.losses import barlow_twins_loss, nt_xent_loss, sigreg_loss, vicreg_loss
from tests.losses.distributed_cases import equal, hold, raises, scenario, split, views


@scenario("agreeing")
def disagreement_is_the_same_error_everywhere():
    odd = dist.get_rank() == 1
    x, y = (z[split(equal())] for z in views(equal(), 24))
    half = (x.float(), y.float()) if odd else (x, y)
    short = (x[:, :20], y[:, :20]) if odd else (x, y)
    three = (x.unsqueeze(1), y.unsqueeze(1)) if odd else (x, y)
    cut = (z.view(-1, 4, 6) if odd else z.view(-1, 2, 2, 6)[:, :, 0] for z in (x, y))
    both = dict(group="world")
    raises(ValueError, "on D: rank 0 has 24, rank 1 has 20", vicreg_loss, *short, **both)
    raises(ValueError, "on D: rank 0 has 24, rank 1 has 20", barlow_twins_loss, *short, **both)
    raises(ValueError, "on D: rank 0 has 24, rank 1 has 20", nt_xent_loss, *short, **both)
    raises(ValueError, "on D: rank 0 has 24, rank 1 has 20", sigreg_loss, short[0], **both)
    raises(ValueError, "rank 0 has float64, rank 1 has float32", nt_xent_loss, *half, **both)
    raises(ValueError, "dimensions: rank 0 has 2, rank 1 has 3", vicreg_loss, *three, **both)
    raises(ValueError, "on the middle dimensions", vicreg_loss, *cut, **both)
    raises(ValueError, "loss's options", vicreg_loss, x, y, gamma=2.0 if odd else 1.0, **both)
    raises(ValueError, "loss's options", sigreg_loss, x, step=dist.get_rank(), **both)
    loss = barlow_twins_loss if odd else nt_xent_loss
    raises(ValueError, "rank 0 has NT-Xent, rank 1 has Barlow Twins", loss, x, y, **both)
    # A rank that cannot take part at all says so before it raises.
    words = "y: expected x's shape" if odd else "rank 1 refused its own input"
    raises(ValueError, words, vicreg_loss, x, y[:2] if odd else y, **both)
    kind, words = (
        (TypeError, "x: expected a torch tensor") if odd else (ValueError, "rank 1 refused")
    )
    raises(kind, words, nt_xent_loss, None if odd else x, y, **both)
    hold(vicreg_loss, *views(equal(), 24), equal())  # and the group still serves


@scenario("agreeing")
def a_bad_option_on_one_rank_is_an_error_on_all():
    odd = dist.get_rank() == 1
    x, y = (z[split(equal())] for z in views(equal(), 24))
    for loss, option, bad, good in (
        (vicreg_loss, "sim_coeff", "1", 25.0),
        (vicreg_loss, "eps", float("nan"), 1e-4),
        (barlow_twins_loss, "lambda_", None, 0.0051),
        (barlow_twins_loss, "eps", 0.0, 1e-5),
        (nt_xent_loss, "temperature", -1.0, 0.5),
        (nt_xent_loss, "temperature", torch.ones(2), 0.5),
        (partial(sigreg_loss, x), "num_knots", 1, 17),
        (partial(sigreg_loss, x), "step", -1, 0),
    ):
        inputs = () if isinstance(loss, partial) else (x, y)
        words = option if odd else "rank 1 refused"
        kinds = (TypeError, ValueError) if odd else ValueError
        raises(kinds, words, loss, *inputs, group="world", **{option: bad if odd else good})
    hold(vicreg_loss, *views(equal(), 24), equal())  # and the group still serves


@scenario("agreeing")
def transforms_are_refused():
    x, y = (z[split(equal())] for z in views(equal(), 24))
    both = {"group": "world"}
    for loss in (vicreg_loss, barlow_twins_loss, nt_xent_loss):
        of_x = partial(loss, y=y, **both)
        raises(TypeError, "transform of torch.func", torch.func.grad(of_x), x)
        raises(TypeError, "no forward-mode", torch.func.jvp, of_x, (x,), (x,))
        with forward_ad.dual_level(), torch.no_grad():
            raises(TypeError, "no forward-mode", of_x, forward_ad.make_dual(x, x))
