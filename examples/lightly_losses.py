"""lightly's losses without the rest of lightly.

``from lightly.loss import VICRegLoss`` imports all of the package, and with it torchvision and
pytorch_lightning. The files of three losses need neither: they are imported here by themselves,
from an installed lightly (``pip install --no-deps lightly``).
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType, SimpleNamespace
from unittest import mock

PACKAGES = ("lightly", "lightly.loss", "lightly.models", "lightly.models.modules", "lightly.utils")


def load() -> SimpleNamespace:
    """``VICRegLoss``, ``BarlowTwinsLoss`` and ``NTXentLoss``; ImportError without lightly."""
    spec = importlib.util.find_spec("lightly")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("lightly is not installed: pip install --no-deps lightly")
    root = spec.submodule_search_locations[0]
    stubs = {}
    for name in PACKAGES:  # packages that find their files, and run no __init__.py
        stubs[name] = ModuleType(name)
        stubs[name].__path__ = ["/".join([root, *name.split(".")[1:]])]
    # Needed for a memory bank that is gathered from several ranks, and by nothing else.
    utils = stubs["lightly.models.utils"] = ModuleType("lightly.models.utils")
    stubs["lightly.models"].utils = utils  # type: ignore[attr-defined]
    with mock.patch.dict(sys.modules, stubs):
        return SimpleNamespace(
            VICRegLoss=importlib.import_module("lightly.loss.vicreg_loss").VICRegLoss,
            BarlowTwinsLoss=importlib.import_module(
                "lightly.loss.barlow_twins_loss"
            ).BarlowTwinsLoss,
            NTXentLoss=importlib.import_module("lightly.loss.ntx_ent_loss").NTXentLoss,
        )
