"""Losses of the global batch of a ``torch.distributed`` group; ``docs/distributed.md`` says what is
sent, and when.

Every rank gets the loss of all ranks' rows together. Its input gradient is world_size times the
gradient of that loss, so that the average over ranks, which DistributedDataParallel and
fully_shard take of the parameters' gradients, is the gradient of one process with the whole batch.

A call is: a tiny exchange in which ranks agree on what they are about to do (``batch.py``), at most
two collectives of data, and no collective in the backward pass: forward already computes the
products that gradients need, each rank those of its own rows. A backward pass that some rank never
runs therefore hangs nobody, and little is kept: about one array of the rank's own views.
"""
