"""The four MNIST programs that portnn succeeds, each as one configuration, with its mistakes mended.

What each program does otherwise is said beside it; the figures of both are compared in the README. ``file order`` and
other ways of not shuffling are among the mistakes: portnn visits every sample once per epoch, in a new order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import portnn
from portnn.initializers import glorot_normal, he_normal, he_uniform, normal


@dataclass(frozen=True)
class Preset:
    """What ``examples/mnist.py`` trains: every field is also an option of the command line."""

    hidden: tuple[int, ...]
    activation: str = "relu"
    init: Any = "he_normal"
    bias: bool = True
    optimizer: str = "sgd"
    learning_rate: float | None = None
    schedule: str = "constant"
    batch_size: int = 128
    epochs: int = 10
    clip_value: float | None = None
    dropout: float = 0.0
    normalization: str | None = None
    residual: bool = False
    precision: str = "float32"
    notes: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        """Refuse 0, negative numbers and NaN before any data are read."""
        for name in ("learning_rate", "batch_size", "epochs", "clip_value"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")

    @property
    def rate(self) -> float:
        """Return the learning rate, or the one that suits the optimizer where none is given."""
        return RATES[self.optimizer] if self.learning_rate is None else self.learning_rate

    def make_optimizer(self, steps: int) -> portnn.optimizers.Optimizer:
        """Return the optimizer for a run of ``steps`` updates."""
        rate: Any = self.rate
        if self.schedule == "cosine":
            rate = portnn.schedules.cosine(rate, steps)
        if self.optimizer in ("momentum", "nesterov"):
            return portnn.SGD(rate, momentum=0.9, nesterov=self.optimizer == "nesterov")
        return OPTIMIZERS[self.optimizer](rate)


OPTIMIZERS = {
    "sgd": portnn.SGD,
    "momentum": portnn.SGD,
    "nesterov": portnn.SGD,
    "adam": portnn.Adam,
    "adamw": portnn.AdamW,
    "rmsprop": portnn.RMSprop,
    "adagrad": portnn.Adagrad,
}
RATES = {
    "sgd": 0.1,
    "momentum": 0.02,
    "nesterov": 0.02,
    "adam": 2e-3,
    "adamw": 2e-3,
    "rmsprop": 1e-3,
    "adagrad": 0.02,
}

PRESETS = {
    "default": Preset(hidden=(256,), optimizer="adam", schedule="cosine"),
    "tiny-mnist": Preset(
        hidden=(256, 64),
        activation="leaky_relu(0.01)",
        init=he_normal(scale=0.1, fan="out"),
        learning_rate=0.03,
        batch_size=100,
        clip_value=1.0,
        precision="float64",
        notes="Its list for numerical stability: He start times 0.1 (by fan-out, as the program has it; by fan-in it "
        "is too small for ten epochs), clipping by value, leaky ReLU, and the loss from raw logits, which makes 1e-12 "
        "in the logarithm needless. The gradient is softmax minus target, where the program leaves the softmax out, "
        "and goes back through the weights before the update; there are biases.",
    ),
    "rustnist": Preset(
        hidden=(128,),
        activation="leaky_relu(0.01)",
        init=(he_normal(), glorot_normal()),
        learning_rate=0.2,
        batch_size=100,
        notes="The He and Xavier starts that its text names; the program draws N(0, 2/784) and N(0, 1). Its effective "
        "rate is 0.02, and output weights of N(0, 1) make the gradients of the hidden layer about ten times larger: "
        "the rate here is 0.2. An epoch visits every sample; pixels are divided by 255.",
    ),
    "nn-rust": Preset(
        hidden=(512,),
        init=normal(1.0),
        learning_rate=1e-3,
        batch_size=32,
        notes="Standard normal weights, 512 hidden units and the rate 1e-3 as the program has them; its text says 128 "
        "and 1e-4. Biases start at 0, the output has one too, and the last partial batch is used.",
    ),
    "mnist-in-rust": Preset(
        hidden=(64,),
        init=(he_uniform(), glorot_normal()),
        learning_rate=0.01,
        schedule="cosine",
        batch_size=1,
        notes="One sample per step. The program starts from U(-0.5, 0.5) in file order and takes log(0) in its loss. "
        "The rate falls from its 0.01 to 0: at a constant rate the accuracy wanders between 97.0 and 97.6 %.",
    ),
}
