"""Training: what is asked for is looked at, put together, and run by the loop."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Any

from portnn import random
from portnn.backends import Array
from portnn.callbacks import Callback
from portnn.checkpoints import Checkpoints
from portnn.group import ALONE, Group
from portnn.history import History
from portnn.loop import Order
from portnn.mlp import MLP, check_model
from portnn.preparation import Asked, Preparation
from portnn.ranks import Ranks


def fit(
    model: MLP,
    x: Any,
    t: Array | None = None,
    *,
    loss: Any = "cross_entropy",
    optimizer: Any = None,
    epochs: int = 10,
    batch_size: int | None = None,
    micro_batch_size: int | None = None,
    validation_data: Any = None,
    validation_split: float | None = None,
    sample_weight: Array | None = None,
    class_weight: Any = None,
    l1: float | Sequence[float] = 0.0,
    l2: float | Sequence[float] = 0.0,
    clip_value: float | None = None,
    clip_norm: float | None = None,
    per_batch: bool = False,
    shuffle: bool | Order = True,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | Checkpoints | None = None,
    resume: History | bool | None = None,
    compile: bool | str = "auto",
    callbacks: Callback | Sequence[Callback] = (),
    progress: bool = True,
    comm: Any = None,
) -> History:
    """Train ``model`` in place by mini-batches and return the history.

    Parameters
    ----------
    model
        The network; its ``params`` are replaced at the end of every epoch.
    x
        ``(n, n_features)``, of any real dtype: a NumPy array, one of the model's library on its device, or one of a
        third library, which is read where it lies if the model's library or NumPy can (DLPack); or a
        :class:`portnn.datasets.Stream` of samples that are read from files while the training goes on.
    t
        Integer labels ``(n,)`` or targets ``(n, n_outputs)``; a stream has its own.
    loss
        A name or a pair; see :mod:`portnn.losses`.
    optimizer
        An object of :mod:`portnn.optimizers` or a name; Adam(1e-3) by default. With members its learning rate may be
        a sequence of one number or schedule for each: ``Adam([1e-3, 1e-2])``.
    epochs
        A whole number of at least 1.
    batch_size
        A whole number of at least 1; by default 128, or all samples where they are fewer. The last batch of an epoch
        may be smaller. With batch norm at least 2; a last batch of one sample is normalized with the running statistics
        and leaves them as they are.
    micro_batch_size
        Compute gradients for so many samples of a batch at a time and add them up: the same update, up to rounding, in
        less memory. Not with batch norm, whose statistics are those of a batch, nor with a loss that takes the mean.
    validation_data, validation_split
        A pair (x, t), or a stream; or the fraction of the samples (not of a stream) that is held out, chosen by
        ``seed``. ``val_loss`` counts class weights as the training does, and the sample weights of held-out samples.
    sample_weight, class_weight, l1, l2
        As in :meth:`portnn.MLP.loss_and_grad`.
    clip_value, clip_norm
        Hold each entry of the gradient in [-clip_value, clip_value]; scale the whole gradient down to the Euclidean
        norm clip_norm. With both, by value first.
    per_batch
        True counts as scikit-learn does: l1 and l2 are divided by the number of samples of the batch, or by the sum of
        their weights, and the loss of an epoch is the mean of its batches' losses, each counted by its number of
        samples, whatever their weights.
    shuffle, seed
        The order of an epoch is a pure function of (seed, epoch), the same on every backend; False keeps the order
        of the data. A stream, which takes no function, is shuffled by its blocks. A function of yours gives the order
        itself: ``shuffle(epoch)``, epochs counted from 0, returns the numbers of the rows, each once. The masks of
        dropout are such a function, too; members of an ensemble have masks of their own by their own seeds.
    checkpoint
        A folder, or a :class:`portnn.Checkpoints` that also says how often and how many, for files from which this
        training can go on: to the bit on the same library, version, number of threads and of ranks. A folder that holds
        checkpoints already is refused unless ``resume`` is True.
    resume
        True: go on from the newest valid file of ``checkpoint``, in the middle of an epoch if need be, until ``epochs``
        are finished in all; from the beginning if there is none. So one command starts a training, finishes one that
        was killed, and returns the history of one that is over. What decides the numbers must be what it was: samples,
        network, dtype, loss, optimizer, batch size, seed and the rest; functions of yours are compared by their names
        alone. So must callbacks that remember: ours with their arguments, the patience of early stopping among them
        (paths and ``every`` may change), yours by their types. To go on with others, load the checkpoint
        (:func:`portnn.load_checkpoint`) and resume its history. A history of an earlier fit of this model with this
        optimizer: ``epochs`` more in memory; its epochs, updates and the optimizer's arrays are counted on, and the
        history that is returned begins with it. An epoch that Ctrl-C ended is none of its
        epochs: it begins again, from its first sample, with the parameters that its steps have led to (``checkpoint``
        goes on in its middle).
    compile
        True: the steps are compiled (JAX), captured (CUDA graphs) or recorded and replayed (NumPy, torch on the CPU):
        functions of yours are then called once or a few times, and what stands in the way is raised. False: each
        step is run as it is written. ``"auto"``: compiled where that works, with a warning where it does not; but NumPy
        and torch on the CPU run steps with functions of yours as they are written. Under JAX and on GPUs such functions
        are compiled as well, and what they do besides returning arrays is done at most a few times.
    callbacks
        Functions ``f(model, history)``, called after every epoch; a true value ends the training. Those of
        :mod:`portnn.callbacks` stop early, keep the best, write logs; what has methods ``on_begin`` and ``on_end`` is
        told of both.
    progress
        Show a bar (needs tqdm) on a terminal or in a notebook; nothing where the output is a file or a pipe.
    comm
        A communicator of mpi4py, such as :func:`portnn.distributed.world`: its ranks train together, each of them with
        a part of every batch, and all have the same parameters after every step. All call ``fit`` with the same
        arguments: ``batch_size`` is that of the whole batch, ``micro_batch_size`` cuts the part of a rank. Parameters
        are those of rank 0, which alone has callbacks, checkpoints and the bar, and calls a function for ``shuffle``.
        Not with batch norm, nor with a loss that takes the mean. See :mod:`portnn.distributed`.

    Returns
    -------
    history
        Lists of one number per epoch; ``history.interrupted`` is True if Ctrl-C ended it. Model and history are
        then those of the last chunk of steps and the last epoch that were finished.

    Raises
    ------
    NonFiniteError
        A NaN or an infinity arose: in the loss, the gradient, the parameters, the optimizer's arrays or the running
        statistics, for validation data, or a callback left one. The model keeps the last finite parameters; the error
        says in which step, layer, array, samples and members, see :class:`portnn.NonFiniteError`.
    FormatError
        No checkpoint is valid, or they are of another network or optimizer.
    OSError
        A checkpoint cannot be written; those before are as they were, and the model is that of the last steps. The
        folder is in use by another training (BlockingIOError); two are noticed where the system can lock a file, which
        Windows and some network file systems cannot.

    RankError
        Another rank of ``comm`` failed; the message says which, and with what.
    RuntimeError
        Ranks have come to different numbers: their machines do not compute alike.

    Where anything is refused before the first step, also by a callback, the model is as it was.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.linspace(-1, 1, 64)[:, None]
    >>> model = MLP([1, 1], init="zeros", dtype="float64")
    >>> history = fit(model, x, 3 * x + 1, loss="mse", optimizer="sgd", epochs=200, batch_size=64)
    >>> model.params.round(3)
    array([3., 1.])

    """
    group = group_of(comm, "fit")
    with group.at_work(), contextlib.ExitStack() as stack:
        seed = drawn(seed, group)
        with group.together():
            check_model("fit", model)
            stack.enter_context(model.scope())
            asked = Asked(
                *(loss, optimizer, epochs, batch_size, micro_batch_size, validation_data, validation_split),
                *(sample_weight, class_weight, l1, l2, clip_value, clip_norm, per_batch, shuffle, seed),
                *(checkpoint, resume, compile, callbacks, progress),
            )
            ready = Preparation(model, x, t, asked, group)
        ready.check_alike()
        with group.together():
            loop, last, kept = ready.begun(stack)
        return loop.run(last, kept)


def drawn(seed: Any, group: Group) -> Any:
    """Return a seed; in the place of None one from the operating system, the same on all ranks."""
    one = group.told(random.check_seed(None))
    return one if seed is None else seed


def group_of(comm: Any, who: str) -> Group:
    """Return the ranks of a communicator, or this process by itself."""
    return ALONE if comm is None else Ranks(comm, who)
