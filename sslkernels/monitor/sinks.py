"""Where measurements go besides the table: TensorBoard, Lightning, or any ``log(dict, step)``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sslkernels.monitor.monitor import EmbeddingMonitor

Log = Callable[[dict[str, float], int], Any]


def tensorboard(writer: Any) -> Log:
    """``log=`` for a ``torch.utils.tensorboard.SummaryWriter``: one scalar for each number.

    W&B and MLflow need no adapter: ``log=lambda values, step: wandb.log(values, step=step)`` and
    ``log=lambda values, step: mlflow.log_metrics(values, step=step)``.
    """

    def log(values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    return log


def lightning_callback(
    make: Callable[[Any], EmbeddingMonitor], *, every_n_epochs: int = 1, every_n_steps: int = 0
) -> Any:
    """A Lightning callback that measures after every n epochs, or every n steps if given.

    Args:
        make: called once with the LightningModule when training starts; returns the monitor, whose
            model is that module or a part of it. The callback keeps it as ``callback.monitor``.

    Raises:
        ImportError: neither ``lightning`` nor ``pytorch_lightning`` is installed.
    """
    try:
        from lightning.pytorch import Callback
    except ImportError:
        try:
            from pytorch_lightning import Callback
        except ImportError as error:
            raise ImportError(
                "lightning_callback: needs Lightning: pip install lightning"
            ) from error

    class MonitorCallback(Callback):
        monitor: EmbeddingMonitor | None = None

        def on_fit_start(self, trainer: Any, module: Any) -> None:
            self.monitor = make(module)
            self.monitor.measure(trainer.global_step)

        def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
            if not every_n_steps and (trainer.current_epoch + 1) % every_n_epochs == 0:
                assert self.monitor is not None
                self.monitor.measure(trainer.global_step)

        def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
            if every_n_steps and trainer.global_step % every_n_steps == 0:
                assert self.monitor is not None
                self.monitor.measure(trainer.global_step)

    return MonitorCallback()
