"""PyTorch: the state_dict of Linear layers, as a torch.nn.Sequential or a safetensors file has it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from portnn.backends import Array
from portnn.errors import shown
from portnn.exchange.stack import Given, check_single, stacked, to_host
from portnn.files import listing
from portnn.mlp import MLP
from portnn.scaling import Scaling

# class of a torch module -> the name of our activation, or None where its options ask for what we do not have
_OF_TORCH: dict[str, Callable[[Any], str | None]] = {
    **dict.fromkeys(("ReLU", "SELU", "Tanh", "Sigmoid", "SiLU", "Mish"), lambda m: type(m).__name__.lower()),
    "LeakyReLU": lambda m: f"leaky_relu({m.negative_slope})",
    "ELU": lambda m: f"elu({m.alpha})",
    "Softplus": lambda m: "softplus" if m.beta == 1 and m.threshold >= 20 else None,
    "GELU": lambda m: "gelu_tanh" if m.approximate == "tanh" else "gelu",
}
_ONLY_IN_TRAINING = ("Dropout", "AlphaDropout", "Identity")


def from_torch(
    source: Any,
    activation: Any = None,
    *,
    names: Sequence[str] | None = None,
    backend: Any = "numpy",
    device: Any = None,
    inputs: Scaling | None = None,
    outputs: Scaling | None = None,
) -> MLP:
    """Return the model with the weights of a stack of ``torch.nn.Linear``.

    Parameters
    ----------
    source
        A ``torch.nn.Sequential`` (nested ones too) or a ``torch.nn.Linear``; or a ``state_dict``: a mapping of
        ``NAME.weight``, (out_features, in_features), and ``NAME.bias``, (out_features,), such as a safetensors file
        holds. Tensors that require a gradient are detached.
    activation
        As for :class:`MLP`. A Sequential says it itself, and what it says is taken where this is None; of its modules,
        Dropout is passed over, since it does nothing in prediction. A state_dict does not say it.
    names
        The layers of a state_dict in their order, such as ``["fc1", "fc2", "head"]``; what is not named is left out.
        None if they differ in their numbers only, as in ``0.weight, 2.weight`` or ``fc1.weight, fc2.weight``.
    backend, device
        Where the model is to live.
    inputs, outputs
        A scaling before the first layer and behind the last, as for :class:`MLP`.

    Notes
    -----
    ``torch.nn.Softplus`` is linear above its threshold of 20, and so differs there by up to 2e-9.

    Raises
    ------
    TypeError, ValueError
        What came is not a stack of Linear layers, its shapes do not chain, its dtype is neither float32 nor float64,
        or its order or activation cannot be told.

    Examples
    --------
    >>> import numpy as np
    >>> state = {"0.weight": np.asarray([[1.0, 2.0]]), "0.bias": np.asarray([3.0])}
    >>> from_torch(state).params
    array([1., 2., 3.])

    """
    who = "from_torch"
    state = source
    if hasattr(source, "state_dict"):
        state = source.state_dict()
        if activation is None and names is None and hasattr(source, "named_modules"):
            names, activation = _read_modules(source, who)
    if not isinstance(state, Mapping):
        raise TypeError(
            f"{who}: expected a torch.nn.Sequential of Linear layers or a state_dict, got a {type(source).__name__}"
        )
    names = _order(state, names, who)
    if activation is None and len(names) > 1:
        message = f"{who}: a state_dict does not say what stands between its layers; give it: activation='relu'"
        raise ValueError(message)
    layers = []
    for name in names:
        key = f"{name}.weight" if name else "weight"
        if key not in state:
            raise ValueError(f"{who}: there is no {shown(key)}, the state_dict holds {listing(state)}")
        weight = to_host(state[key], who, key, 2, "(out_features, in_features), as a Linear layer has it")
        key = f"{key.removesuffix('weight')}bias"
        bias = to_host(state[key], who, key, 1, "(out_features,)") if key in state else None
        layers.append(Given(name or "the layer", weight.T, bias))
    return stacked(who, layers, activation, backend, device, inputs, outputs)


def to_torch(model: MLP, names: Sequence[str] | None = None) -> dict[str, Array]:
    """Return the parameters as a ``state_dict`` of Linear layers.

    Parameters
    ----------
    model
        A network without members.
    names
        One per layer; by default ``"0", "2", "4", ...``, the Linear layers of a ``torch.nn.Sequential`` in which an
        activation follows each. ``[""]`` names the parameters of a single ``torch.nn.Linear``.

    Returns
    -------
    ``{"0.weight": (out_features, in_features), "0.bias": (out_features,), ...}``: copies, of the model's own library
    and in its dtype, so ``net.load_state_dict(to_torch(model.to(backend="torch")))`` fills a network of torch, and
    ``portnn.storage.write_safetensors_file(path, to_torch(model))`` writes what ``safetensors.torch.load_file`` reads.

    Examples
    --------
    >>> {name: a.shape for name, a in to_torch(MLP([4, 3, 2])).items()}
    {'0.weight': (3, 4), '0.bias': (3,), '2.weight': (2, 3), '2.bias': (2,)}

    """
    who = "to_torch"
    check_single(model, who)
    n = len(model.layers)
    names = [str(2 * i) for i in range(n)] if names is None else list(names)
    if len(names) != n or len(set(names)) != n or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{who}: names must be {n} texts that differ, one for each layer, got {shown(names)}")
    xp, state = model.backend.xp, {}
    with model.scope():
        for name, weight, bias in zip(names, model.weights, model.biases, strict=True):
            start = f"{name}." if name else ""
            flat = xp.reshape(xp.matrix_transpose(weight), (-1,))  # so that the rows come to lie one after the other
            shape = (weight.shape[1], weight.shape[0])
            state[f"{start}weight"] = model.backend.asarray(xp.reshape(flat, shape), copy=True)
            if bias is not None:
                state[f"{start}bias"] = model.backend.asarray(bias, copy=True)
    return state


def _read_modules(net: Any, who: str) -> tuple[list[str], list[str]]:
    """Return the names of the Linear layers of a Sequential, and what follows each."""
    names: list[str] = []
    activations: list[str] = []
    for name, module in net.named_modules(remove_duplicate=False):  # one ReLU may stand in many places
        kind = type(module).__name__
        where = f"module {shown(name)} is a {kind}"
        known = kind in ("Sequential", "Linear", "Flatten", *_ONLY_IN_TRAINING, *_OF_TORCH)
        if known and not type(module).__module__.startswith("torch.nn."):
            raise ValueError(f"{who}: {where} of your own, whose forward is not known; pass its state_dict()")
        if module._forward_hooks or module._forward_pre_hooks:
            raise ValueError(f"{who}: {where} with hooks, which portnn cannot take over; remove them first")
        if kind == "Sequential" or kind in _ONLY_IN_TRAINING or (kind == "Flatten" and not names):
            continue
        if kind == "Linear":
            names.append(name)
            activations.append("identity")
        elif kind in _OF_TORCH:
            if not names or activations[-1] != "identity":
                raise ValueError(f"{who}: {where}, which does not follow a Linear layer")
            ours = _OF_TORCH[kind](module)
            if ours is None:
                raise ValueError(f"{who}: {where} with options that portnn does not have: {shown(module)}")
            activations[-1] = {"leaky_relu(0.01)": "leaky_relu", "elu(1.0)": "elu"}.get(ours, ours)
        elif any(True for _ in module.children()):
            raise TypeError(
                f"{who}: only the code of {kind} knows the order of its layers; pass its state_dict() with "
                "activation=... and names=[...]"
            )
        else:
            raise ValueError(
                f"{who}: {where}, expected Linear, Dropout and {', '.join(_OF_TORCH)}; portnn returns raw outputs, so "
                "leave a softmax at the end out"
            )
    if not names:
        raise ValueError(f"{who}: there is no Linear layer in this {type(net).__name__}")
    return names, activations


def _order(state: Mapping[Any, Any], names: Sequence[str] | None, who: str) -> list[str]:
    """Return the names of the layers in their order."""
    if names is not None:
        texts = not isinstance(names, str) and all(isinstance(name, str) for name in names)
        if not texts or not names or len(set(names)) != len(names):
            raise ValueError(f"{who}: names must be texts that differ, such as ['fc1', 'fc2'], got {shown(names)}")
        return list(names)
    found = []
    for key in state:
        name, _, part = key.rpartition(".") if isinstance(key, str) else ("", "", None)
        if part not in ("weight", "bias"):
            raise ValueError(
                f"{who}: {shown(key)} is not the weight or bias of a Linear layer; say which layers to take, in their "
                "order: names=['fc1', 'fc2']"
            )
        if name not in found:
            found.append(name)
    if not found:
        raise ValueError(f"{who}: the state_dict is empty, expected 'NAME.weight' and 'NAME.bias' for each layer")
    if len({re.sub(r"\d+", "#", name) for name in found}) > 1:
        raise ValueError(
            f"{who}: the order of {listing(found)} cannot be told from their names; give it: names=[...], first layer "
            "first"
        )
    return sorted(found, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])
