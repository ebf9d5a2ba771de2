"""Losses: values, terms and gradients for random weights of the terms.

A truth is one :class:`Number` per term and one per view's gradient.
"""

from __future__ import annotations

import functools

import torch

import sslkernels as ssk
from sslkernels.reference.sigreg import slices
from tests.soak.bounds import rounding, unit
from tests.soak.draws import COLUMNS, Draw, Rows
from tests.soak.problems import Number, Ours, Problem, centered, compare

# ---- VICReg ----


def _covariance(z: torch.Tensor) -> tuple[Number, Number]:
    """sum over i != j of S_ij^2 / D and its gradient; z [N, D] centered.

    On the N x N side K_ik is off by the rounding of ||z_i|| ||z_k||, on the other S_jl by that of
    the product of two columns' deviations.
    """
    n, d = z.shape
    squares = z.square()
    v = squares.sum(0) / (n - 1)
    if n < d:
        k = z @ z.T
        length = squares.sum(1).sqrt()
        value = (k.square().sum() / (n - 1) ** 2 - v.square().sum()) / d
        magnitude = 2 * (length @ k.abs() @ length) / (n - 1) ** 2 / d + 4 * v.square().sum() / d
        factor = 4 / (d * (n - 1) ** 2)
        grad = factor * (k @ z) - 4 / (d * (n - 1)) * z * v
        column = (v * (n - 1)).sqrt()
        spread = factor * k.norm(dim=1).unsqueeze(1) * column + 4 / (d * (n - 1)) * z.abs() * v
        return Number(value, magnitude), Number(grad, 2 * spread)
    s = z.T @ z / (n - 1)
    s.fill_diagonal_(0)
    sd = v.sqrt()
    value = s.square().sum() / d
    # Rounding alone would give S elements where there should be none.
    magnitude = 2 * (sd @ s.abs() @ sd) / d + 2 * rounding(torch.float32) * v.sum().square() / d
    factor = 4 / (d * (n - 1))
    rows = squares.sum(1).sqrt().unsqueeze(1)
    columns = s.norm(dim=0) + sd * sd.square().mean().sqrt()
    return Number(value, magnitude), Number(factor * (z @ s), 2 * factor * rows * columns)


def _variance(z: torch.Tensor, gamma: float, eps: float, u: float) -> tuple[Number, Number]:
    """mean of max(0, gamma - sd_j); z [N, D] centered. A column at the kink may fall either way."""
    n, d = z.shape
    sd = (z.square().sum(0) / (n - 1) + eps).sqrt()
    inside = sd < gamma
    near = (sd - gamma).abs() < 1e3 * u * gamma
    value = (gamma - sd).clamp(min=0).mean()
    magnitude = ((gamma + sd) * (inside | near)).mean()
    slope = 1 / (d * (n - 1) * sd)
    grad = -z * slope * inside
    spread = (z.abs() + sd) * slope * (inside | near) + z.abs() * slope * near / u
    return Number(value, magnitude), Number(grad, spread)


def vicreg(draw: Draw, *, two: bool = False) -> Problem:
    dtype = draw.dtype()
    n, d = draw.shape(flops=4e9)
    p = draw.pick((1, 1, 1, 2, 3))
    p = p if n * d * p <= 4e6 else 1
    views = [_problems(draw, n, d, p, dtype) for _ in range(2 if two else draw.pick((1, 2, 2)))]
    weights = [draw.luck.uniform(-1, 1) for _ in range(4)]
    sim, std, cov = (draw.luck.uniform(0, 25) for _ in range(3))
    gamma, eps = draw.pick((1.0, 2.0)), 1e-4
    names = ("invariance", "variance", "covariance")
    # loss, invariance, variance, covariance
    parts = {name: Number(torch.zeros(()).double(), torch.zeros(()).double()) for name in names}
    gradients = []
    two = len(views) == 2
    coefficient = dict(zip(names, (sim, std, cov), strict=True))
    weight = {name: weights[0] * coefficient[name] + weights[k + 1] for k, name in enumerate(names)}
    name = draw.pick(("variance", "covariance"))
    if not two:
        weight = {"variance": 0.0, "covariance": 0.0, name: 1.0}
    difference = (views[0].exact - views[-1].exact) if two else torch.zeros(())
    if two:
        value = difference.square().mean()
        parts["invariance"] = Number(value, 3 * value)
    for k, view in enumerate(views):
        z = view.exact.reshape(n, p, d)
        by_problem = []
        for i in range(p):
            x = centered(z[:, i])
            (var, on_var), (covar, on_cov) = (
                _variance(x, gamma, eps, unit(dtype)),
                _covariance(x),
            )
            parts["variance"] += var * (1 / p / len(views))
            parts["covariance"] += covar * (1 / p)
            own = on_var * (weight["variance"] / p / len(views))
            by_problem.append(own + on_cov * (weight["covariance"] / p))
        total = Number(
            *(torch.stack(t, 1).reshape(view.exact.shape) for t in zip(*by_problem, strict=True))
        )
        if two:
            pull = 2 * difference * (1 - 2 * k) / difference.numel()
            total += Number(pull, pull.abs()) * weight["invariance"]
        gradients.append(total)
    facts = f"[{n}, {p}, {d}] " + " and ".join(view.facts for view in views)
    if not two:
        alone = {
            "variance": functools.partial(ssk.variance_loss, gamma=gamma, eps=eps),
            "covariance": ssk.covariance_loss,
        }[name]
        return Problem(
            facts,
            lambda _: lambda z: [alone(z)],
            views,
            [1.0],
            [parts[name]],
            gradients,
            max(n, d),
            draw.backend,
        )
    loss = parts["invariance"] * sim + parts["variance"] * std + parts["covariance"] * cov
    terms = [loss, *parts.values()]

    def ours(group: str | None) -> Ours:
        module = ssk.VICRegLoss(
            sim_coeff=sim, std_coeff=std, cov_coeff=cov, gamma=gamma, eps=eps, group=group
        )
        return module.forward_components

    return Problem(facts, ours, views, weights, terms, gradients, max(n, d), draw.backend)


def _problems(draw: Draw, n: int, d: int, p: int, dtype: torch.dtype) -> Rows:
    """[N, D], or [N, P, D] for P > 1, with the layouts that rows of P D columns have."""
    rows = draw.embeddings(n, p * d, dtype)
    if p == 1:
        return rows
    given = rows.given.unflatten(1, (p, d))
    return Rows(given, given.double(), dtype, rows.facts)


# ---- Barlow Twins ----


def barlow_twins(draw: Draw) -> Problem:
    dtype = draw.dtype()
    n, d = draw.shape(flops=2e9)
    x = draw.embeddings(n, d, dtype)
    spread = draw.pick((0.5, 1.0, 3.0))
    offset = draw.offset(dtype, d)
    y = draw.rows(x.exact - x.exact.mean(0) + spread * draw.normal(n, d) + offset, dtype)
    weights = [draw.luck.uniform(-1, 1) for _ in range(3)]
    lam, eps = draw.pick((0.0051, 0.1)), 1e-5
    (a, fa), (b, fb) = (_batch_norm(z.exact, eps) for z in (x, y))
    diagonal = (a * b).sum(0) / n
    on = (diagonal - 1).square().sum()
    on_terms = 2 * (diagonal - 1).abs().sum() + on
    w_on, w_off = 2 * (weights[0] + weights[1]), 2 * (weights[0] * lam + weights[2])
    if n < d:
        ka, kb = a @ a.T, b @ b.T
        la, lb = a.norm(dim=1), b.norm(dim=1)
        off = (ka * kb).sum() / n**2 - diagonal.square().sum()
        off_terms = (lb @ ka.abs() @ lb + la @ kb.abs() @ la) / n**2 + 2 * diagonal.abs().sum()
        ga = w_off * (kb @ a / n**2 - b * diagonal / n)
        gb = w_off * (ka @ b / n**2 - a * diagonal / n)
        ma = kb.norm(dim=1).unsqueeze(1) * a.norm(dim=0) / n**2
        mb = ka.norm(dim=1).unsqueeze(1) * b.norm(dim=0) / n**2
    else:
        c = a.T @ b / n
        c.fill_diagonal_(0)
        off = c.square().sum()
        off_terms = 2 * c.abs().sum() + 2 * rounding(torch.float32) * d**2
        ga, gb = w_off * b @ c.T / n, w_off * a @ c / n
        ma = b.norm(dim=1).unsqueeze(1) * (c.norm(dim=1) + 1) / n
        mb = a.norm(dim=1).unsqueeze(1) * (c.norm(dim=0) + 1) / n
    ga += w_on * b * (diagonal - 1) / n
    gb += w_on * a * (diagonal - 1) / n
    ma = 2 * abs(w_off) * (ma + b.abs() / n) + 2 * abs(w_on) * b.abs() / n
    mb = 2 * abs(w_off) * (mb + a.abs() / n) + 2 * abs(w_on) * a.abs() / n
    gradients = [_through(a, fa, ga, ma), _through(b, fb, gb, mb)]
    loss = Number(on + lam * off, on_terms + lam * off_terms)
    terms = [loss, Number(on, on_terms), Number(off, off_terms)]
    facts = f"lambda {lam}, {x.facts} and {y.facts}"

    def ours(group: str | None) -> Ours:
        return ssk.BarlowTwinsLoss(lambda_param=lam, eps=eps, group=group).forward_components

    return Problem(facts, ours, [x, y], weights, terms, gradients, max(n, d), draw.backend)


def _batch_norm(z: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    z = centered(z)
    factor = 1 / (z.square().mean(0) + eps).sqrt()
    return z * factor, factor


def _through(a: torch.Tensor, factor: torch.Tensor, g: torch.Tensor, m: torch.Tensor) -> Number:
    """The gradient by what was normalized, from that by the normal rows a."""
    value = factor * (g - g.mean(0) - a * (g * a).mean(0))
    magnitude = factor * (m + m.mean(0) + a.abs() * (m * a.abs()).mean(0))
    return Number(value, magnitude)


# ---- NT-Xent ----


def nt_xent(draw: Draw) -> Problem:
    dtype = draw.dtype()
    n, d = draw.within(1.5e6, (2, 1600), (1, COLUMNS))
    x = draw.embeddings(n, d, dtype, offset=draw.chance(0.3))
    y = draw.rows(x.exact + draw.pick((0.1, 1.0)) * draw.normal(n, d), dtype)
    weights = [draw.luck.uniform(-1, 1) for _ in range(3)]
    t = draw.pick((0.07, 0.2, 0.5, 1.0))
    z = torch.cat([x.exact, y.exact])
    length = z.norm(dim=1, keepdim=True).clamp(min=1e-12)
    u = z / length
    logits = u @ u.T / t
    logits.fill_diagonal_(-torch.inf)
    rows = torch.arange(2 * n)
    positive = rows.roll(n)
    at = logits[rows, positive].clone()
    share = torch.softmax(logits, 1)
    logits[rows, positive] = -torch.inf
    # softplus is the identity past 20, which loses the digits after 2e-9; logaddexp is not.
    loss_of_row = torch.logaddexp(torch.logsumexp(logits, 1) - at, at.new_zeros(()))
    loss, pull = loss_of_row.mean(), at.mean()
    share[rows, positive] = 0
    missing = share.sum(1)
    # A logit is off by the rounding of 1 / t: a row's loss by 2 missing of it, a share by itself.
    terms = [
        Number(loss, loss + missing.mean() * 2 / t),
        Number(-pull, torch.tensor(1 / t).double()),
        Number(loss + pull, loss + (1 + missing.mean()) * 2 / t),
    ]
    w = (weights[0] + weights[2]) * share
    w[rows, positive] = weights[2] - weights[1] - (weights[0] + weights[2]) * missing
    size = (abs(weights[0]) + abs(weights[2])) * missing + abs(weights[1]) + abs(weights[2])
    w /= 2 * n
    w = w + w.T
    # The entries of both rows and columns; what is off in them is (1 + 2 / t) of their size.
    total = size + (abs(weights[0]) + abs(weights[2])) * share.sum(0) + size[positive]
    on_unit = w @ u / t
    spread = (1 + 2 / t) * total.unsqueeze(1) / (2 * n * t) * u.abs().amax(0)
    inside = (on_unit * u).sum(1, keepdim=True)
    off_inside = (1 + 2 / t) * total.unsqueeze(1) / (2 * n * t)
    grad = Number((on_unit - inside * u) / length, (spread + off_inside * u.abs()) / length)
    gradients = [Number(*(part[:n] for part in grad)), Number(*(part[n:] for part in grad))]
    facts = f"temperature {t}, {x.facts} and {y.facts}"

    def ours(group: str | None) -> Ours:
        return ssk.NTXentLoss(temperature=t, group=group).forward_components

    return Problem(facts, ours, [x, y], weights, terms, gradients, d, draw.backend, centered=False)


# ---- SIGReg ----


def sigreg(draw: Draw) -> Problem:
    dtype = draw.dtype()
    knots = draw.pick((2, 5, 17, 17, 33))
    while True:
        n, d = draw.shape(rows=1, elements=2e6)
        m = draw.size(1, 1024)
        if n * m * knots <= 4e6 and n * m * d <= 4e8 and m * d <= 2e6:
            break
    z = draw.embeddings(n, d, dtype, offset=draw.chance(0.2))
    first, last = draw.pick(((0.0, 3.0), (0.2, 4.0)))
    seed, step = draw.luck.randrange(2**40), draw.luck.randrange(2**40)
    scaled = draw.chance(0.5)
    weights = [draw.luck.uniform(-1, 1) for _ in range(3)]
    a = torch.from_numpy(slices(m, d, seed=seed, step=step))
    p = z.exact @ a.T
    length = z.exact.norm(dim=1)
    knot = torch.linspace(first, last, knots, dtype=torch.float64)
    target = torch.exp(-knot.square() / 2)
    measure = torch.full((knots,), 2 * (last - first) / (knots - 1), dtype=torch.float64)
    measure[[0, -1]] /= 2
    measure *= target
    real = imaginary = real_terms = imaginary_terms = 0.0
    on_p, on_p_terms = torch.zeros_like(p), torch.zeros_like(p)
    for t, goal, weight in zip(knot.tolist(), target.tolist(), measure.tolist(), strict=True):
        cos, sin = (t * p).cos(), (t * p).sin()
        c, s = cos.mean(0) - goal, sin.mean(0)
        off = 1 + t * float(length.mean())  # of c and of s: an angle is off by that of t ||z||
        real += weight * c.square().mean()
        imaginary += weight * s.square().mean()
        real_terms += weight * (2 * off * c.abs() + rounding(torch.float32) * off**2).mean()
        imaginary_terms += weight * (2 * off * s.abs() + rounding(torch.float32) * off**2).mean()
        w_real = 2 * weight * t * (weights[0] + weights[1])
        w_imaginary = 2 * weight * t * (weights[0] + weights[2])
        on_p += w_imaginary * s * cos - w_real * c * sin
        angle = 1 + t * length.unsqueeze(1)
        on_p_terms += abs(w_real) * (off + c.abs() * angle)
        on_p_terms += abs(w_imaginary) * (off + s.abs() * angle)
    scale = n if scaled else 1
    total = real + imaginary
    terms = [
        Number(scale * v, scale * w)
        for v, w in (
            (total, real_terms + imaginary_terms),
            (real, real_terms),
            (imaginary, imaginary_terms),
        )
    ]
    factor = scale / (n * m)
    magnitude = factor * on_p_terms.norm(dim=1).unsqueeze(1) * a.norm(dim=0)
    facts = f"{m} slices, {knots} knots from {first}, {z.facts}"
    gradients = [Number(factor * on_p @ a, 2 * magnitude)]

    def ours(group: str | None) -> Ours:
        module = ssk.SIGReg(
            num_slices=m,
            num_knots=knots,
            t_min=first,
            t_max=last,
            scale_by_n=scaled,
            seed=seed,
            group=group,
        )
        module.step.fill_(step)
        return module.forward_components

    return Problem(
        facts, ours, [z], weights, terms, gradients, max(n, d), draw.backend, centered=False
    )


# ---- the cases ----


def case_vicreg(draw: Draw) -> None:
    compare(vicreg(draw))


def case_barlow_twins(draw: Draw) -> None:
    compare(barlow_twins(draw))


def case_nt_xent(draw: Draw) -> None:
    compare(nt_xent(draw))


def case_sigreg(draw: Draw) -> None:
    compare(sigreg(draw))
