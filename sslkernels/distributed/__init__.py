"""Losses of the global batch of a ``torch.distributed`` group; ``docs/distributed.md`` says what is
sent, and when.

Every rank gets the loss of all ranks' rows together. Its input gradient is world_size times the
gradient of that loss, so that the average over ranks, which DistributedDataParallel and
fully_shard take of the parameters' gradients, is the gradient of one process with the whole batch.

A call is: a tiny exchange in which ranks agree on what they are about to do (``batch.py``), a few
collectives of data, and none in the backward pass: where gradients need the data of other ranks,
forward already computes these products. A backward pass that some rank never runs therefore hangs
nobody, and little is kept. What a rank computes is a problem for the kernels (``parts.py``).
"""
