"""PyTorch: the state_dict of Linear layers and normalizations, as a Sequential or a safetensors file has it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from portnn.backends import Array
from portnn.errors import shown
from portnn.exchange.stack import Given, Norm, check_single, stacked, to_host
from portnn.files import listing
from portnn.mlp import MLP
from portnn.normalization import EPS, MOMENTUM
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
_NORMS = {"LayerNorm": "layer", "BatchNorm1d": "batch"}
_PARTS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


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
    """Return the model with the weights of a stack of ``torch.nn.Linear``, ``LayerNorm`` and ``BatchNorm1d``.

    Parameters
    ----------
    source
        A ``torch.nn.Sequential`` (nested ones too) or a ``torch.nn.Linear``; or a ``state_dict``: a mapping of
        ``NAME.weight``, (out_features, in_features), and ``NAME.bias``, (out_features,), such as a safetensors file
        holds; of a normalization both are (out_features,), and that of a batch has ``NAME.running_mean`` and
        ``NAME.running_var``. Tensors that require a gradient are detached.
    activation
        As for :class:`MLP`. A Sequential says it itself, and what it says is taken where this is None; of its modules,
        Dropout is passed over, since it does nothing in prediction. A state_dict does not say it.
    names
        The layers of a state_dict in their order, such as ``["fc1", "norm1", "fc2", "head"]``. Other layers are left
        out, but not normalizations, which might belong to these: a state_dict with one that is not named is refused.
        None if they differ in their numbers only, as in ``0.weight, 2.weight`` or ``fc1.weight, fc2.weight``.
    backend, device
        Where the model is to live.
    inputs, outputs
        A scaling before the first layer and behind the last, as for :class:`MLP`.

    Notes
    -----
    ``torch.nn.Softplus`` is linear above its threshold of 20, and so differs there by up to 2e-9.

    portnn's normalizations stand between a hidden layer and its activation, with gain and shift, eps 1e-5 and, for
    running statistics, momentum 0.1; modules that are otherwise are refused. A state_dict does not say place, eps and
    momentum: these are assumed.

    Raises
    ------
    TypeError, ValueError
        What came is not a stack of such layers, its shapes do not chain, its dtype is neither float32 nor float64, or
        its order or activation cannot be told.

    Examples
    --------
    >>> import numpy as np
    >>> state = {"0.weight": np.asarray([[1.0, 2.0]]), "0.bias": np.asarray([3.0])}
    >>> from_torch(state).params
    array([1., 2., 3.])

    """
    who = "from_torch"
    state, modules = source, {}
    if hasattr(source, "state_dict"):
        state = source.state_dict()
        modules = dict(source.named_modules()) if hasattr(source, "named_modules") else {}
        if activation is None and names is None and hasattr(source, "named_modules"):
            names, activation = _read_modules(source, who)
    if not isinstance(state, Mapping):
        raise TypeError(
            f"{who}: expected a torch.nn.Sequential of Linear layers or a state_dict, got a {type(source).__name__}"
        )
    names = _order(state, names, who)
    norms = [name for name in names if _is_norm(state, name)]
    if activation is None and len(names) > 1 + len(norms):
        message = f"{who}: a state_dict does not say what stands between its layers; give it: activation='relu'"
        raise ValueError(message)
    layers: list[Given] = []
    for name in names:
        key = f"{name}.weight" if name else "weight"
        if key not in state:
            raise ValueError(f"{who}: there is no {shown(key)}, the state_dict holds {listing(state)}")
        if name in norms and layers:
            if layers[-1].norm is not None:
                raise ValueError(f"{who}: {shown(name)} normalizes what {layers[-1].norm.name} has normalized already")
            if name in modules:
                _check_norm(modules[name], name, who)
            layers[-1] = layers[-1]._replace(norm=_norm(state, name, who))
            continue
        weight = to_host(state[key], who, key, 2, "(out_features, in_features), as a Linear layer has it")
        key = f"{key.removesuffix('weight')}bias"
        bias = to_host(state[key], who, key, 1, "(out_features,)") if key in state else None
        layers.append(Given(name or "the layer", weight.T, bias))
    return stacked(who, layers, activation, backend, device, inputs, outputs)


def to_torch(model: MLP, names: Sequence[str] | None = None) -> dict[str, Array]:
    """Return the parameters as a ``state_dict`` of Linear layers and normalizations.

    Parameters
    ----------
    model
        A network without members, scalings and residuals.
    names
        One per layer and one per normalization, which stands behind its layer; by default ``"0", "2", "4", ...``, the
        places in a ``torch.nn.Sequential`` in which an activation follows each Linear layer, or each ``LayerNorm`` or
        ``BatchNorm1d`` directly behind it. ``[""]`` names the parameters of a single ``torch.nn.Linear``.

    Returns
    -------
    ``{"0.weight": (out_features, in_features), "0.bias": (out_features,), ...}``, of batch norm ``"1.running_mean"``
    and ``"1.running_var"``, too: copies, of the model's own library and in its dtype, so
    ``net.load_state_dict(to_torch(model.to(backend="torch")))`` fills a network of torch, and
    ``portnn.storage.write_safetensors_file(path, to_torch(model))`` writes what ``safetensors.torch.load_file`` reads.

    Examples
    --------
    >>> {name: a.shape for name, a in to_torch(MLP([4, 3, 2])).items()}
    {'0.weight': (3, 4), '0.bias': (3,), '2.weight': (2, 3), '2.bias': (2,)}

    """
    who = "to_torch"
    check_single(model, who, norms=True)
    steps = [step for layer in model.layers for step in ("linear", "norm", "activation")]
    there = [kind != "norm" or model.layers[i // 3].normalization is not None for i, kind in enumerate(steps)]
    numbers = [k for k, kind in enumerate(itertools.compress(steps, there)) if kind != "activation"]
    n = len(numbers)
    names = list(map(str, numbers)) if names is None else list(names)
    if len(names) != n or len(set(names)) != n or not all(isinstance(name, str) for name in names):
        each = "layer" if n == len(model.layers) else "layer and each normalization behind it"
        raise ValueError(f"{who}: names must be {n} texts that differ, one for each {each}, got {shown(names)}")
    xp, state, rest = model.backend.xp, dict[str, Array](), iter(names)
    with model.scope():
        for i, layer in enumerate(model.layers):
            weight = xp.matrix_transpose(model.weights[i])
            # flat, so that the rows come to lie one after the other
            parts = {"weight": xp.reshape(xp.reshape(weight, (-1,)), tuple(weight.shape)), "bias": model.biases[i]}
            _put(state, next(rest), parts, model)
            norm, running = layer.normalization, model.running
            if norm is not None:
                parts = {"weight": model.gains[i], "bias": model.shifts[i]}
                if norm.mean is not None and running is not None:
                    parts |= {"running_mean": running[norm.mean], "running_var": running[norm.variance]}
                _put(state, next(rest), parts, model)
    return state


def _put(state: dict[str, Array], name: str, parts: Mapping[str, Array | None], model: MLP) -> None:
    """Add copies of arrays under the name of their layer."""
    for part, a in parts.items():
        if a is not None:
            state[f"{name}.{part}" if name else part] = model.backend.asarray(a, copy=True)


def _is_norm(state: Mapping[Any, Any], name: str) -> bool:
    """Whether what a state_dict has under a name is no Linear layer, but has a vector of weights, or statistics."""
    weight = state.get(f"{name}.weight")
    return len(getattr(weight, "shape", ())) == 1 or f"{name}.running_mean" in state


def _norm(state: Mapping[Any, Any], name: str, who: str) -> Norm:
    """Return the arrays of a normalization."""
    kept = {part: state[f"{name}.{part}"] for part in _PARTS[:4] if f"{name}.{part}" in state}
    wanted = _PARTS[:4] if "running_mean" in kept else _PARTS[:2]
    for part in wanted:
        if part not in kept:
            raise ValueError(
                f"{who}: {shown(name)} has {', '.join(kept)} and no {part}: it is neither LayerNorm nor BatchNorm1d as "
                "portnn has them, with gain and shift"
            )
    return Norm(name, *(to_host(kept[part], who, f"{name}.{part}", 1, "(out_features,)") for part in wanted))


def _check_norm(module: Any, name: str, who: str) -> None:
    """Raise ValueError for a module whose options are not those of portnn's normalizations."""
    kind = type(module).__name__
    options: dict[str, tuple[Any, Any]] = {"eps": (module.eps, EPS)}
    if kind == "BatchNorm1d":
        options |= {"momentum": (module.momentum, MOMENTUM), "affine": (module.affine, True)}
        options["track_running_stats"] = (module.track_running_stats, True)
    else:
        options["axes"] = (len(module.normalized_shape), 1)
        options["elementwise_affine"] = (module.elementwise_affine, True)
        options["bias"] = (module.bias is not None, True)
    for option, (theirs, ours) in options.items():
        if theirs != ours:
            raise ValueError(f"{who}: module {shown(name)} is a {kind} with {option}={theirs}, portnn's has {ours}")


def _read_modules(net: Any, who: str) -> tuple[list[str], list[str]]:
    """Return the names of the Linear layers and normalizations of a Sequential, and the activation of each layer."""
    names: list[str] = []
    activations: list[str] = []
    for name, module in net.named_modules(remove_duplicate=False):  # one ReLU may stand in many places
        kind = type(module).__name__
        where = f"module {shown(name)} is a {kind}"
        known = kind in ("Sequential", "Linear", "Flatten", *_ONLY_IN_TRAINING, *_OF_TORCH, *_NORMS)
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
        elif kind in _NORMS:
            if not names or activations[-1] != "identity":
                raise ValueError(
                    f"{who}: {where} that does not stand directly behind a Linear layer, before its activation, where "
                    "portnn has it"
                )
            _check_norm(module, name, who)
            names.append(name)
        elif any(True for _ in module.children()):
            raise TypeError(
                f"{who}: only the code of {kind} knows the order of its layers; pass its state_dict() with "
                "activation=... and names=[...]"
            )
        else:
            raise ValueError(
                f"{who}: {where}, expected Linear, {', '.join(_NORMS)}, Dropout and {', '.join(_OF_TORCH)}; portnn "
                "returns raw outputs, so leave a softmax at the end out"
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
        for name in dict.fromkeys(key.rpartition(".")[0] for key in state if isinstance(key, str)):
            if name not in names and _is_norm(state, name):
                raise ValueError(
                    f"{who}: names leaves out {shown(name)}, which has a vector of weights, as a normalization has; "
                    "name it behind its layer, or hand in a state_dict without it"
                )
        return list(names)
    found = []
    for key in state:
        name, _, part = key.rpartition(".") if isinstance(key, str) else ("", "", None)
        if part not in _PARTS or (part not in _PARTS[:2] and f"{name}.weight" not in state):
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
    numbers = {name: [number.lstrip("0") for number in re.findall(r"\d+", name)] for name in found}
    return sorted(
        found, key=lambda name: [(len(digits), digits) for digits in numbers[name]]
    )  # int() takes 4300 digits
