"""The pooled scatter on GPUs is a float64 product: the vendor's library, on float64 tensor cores
where there are such, is what there is to reach. The pass is torch's."""

from sslkernels.backends.torch.scatter import scatter_update

__all__ = ["scatter_update"]
