"""What a checkpoint file holds, and how it is read without being trusted.

One safetensors file holds all of one moment: the tensors of the model as :meth:`portnn.MLP.save` writes them, and
under ``training/`` the optimizer's arrays, the sums of the epoch so far, the history, what schedules and callbacks
remember, and a record, which is JSON as Python reads it (it may say NaN and Infinity). Nothing random has to be kept:
the order of an epoch and the masks of dropout are pure functions of seed and epoch. The SHA-256 of all arrays is in the
metadata.
"""

from __future__ import annotations

import os
import re
import warnings

from portnn import model_file, storage
from portnn.checkpoint_record import FORMAT, STANDING, Kept, check
from portnn.errors import FormatError, caller, shown
from portnn.files import naming
from portnn.json_text import parse_json

_NAME = re.compile(r"checkpoint-(\d{12,15})\.safetensors")


def summary(path: str) -> dict[str, str]:
    """Return how far the training had come as ``{"checkpoint": text}``, nothing for a file that is only a model."""
    infos, _ = storage.read_safetensors_header(path)
    if model_file.RECORD not in infos:
        return {}
    kept = read(path, "checkpoint").record
    batches = f" and {kept['batch']} batches" if kept["row"] else ""
    made = " ".join(str(kept["made_with"][name]) for name in ("backend", "version") if name in kept["made_with"])
    return {"checkpoint": f"after {kept['epoch']} epochs{batches}, {kept['updates']:,} updates; made with {made}"}


def listed(folder: str) -> list[tuple[int, str]]:
    """Return (updates, path) of the checkpoints in a folder, the newest first; none where it is not there."""
    found = [(_NAME.fullmatch(name), name) for name in (os.listdir(folder) if os.path.isdir(folder) else ())]
    paths = ((int(m[1]), os.path.join(folder, name)) for m, name in found if m)
    return sorted(((number, path) for number, path in paths if os.path.isfile(path)), reverse=True)


def read(path: str, who: str) -> Kept:
    """Read a checkpoint; FormatError if it is none, is damaged, or is of another format."""
    arrays, metadata = storage.read_safetensors_file(path)
    with naming(who, path):
        if "checkpoint" not in metadata or model_file.RECORD not in arrays:
            message = "a safetensors file, but not a checkpoint; MLP.load reads models"
            raise FormatError(message)
        position = parse_json(metadata["checkpoint"].encode(), "the position")
        number = position.get("format") if isinstance(position, dict) else None
        if type(number) is not int or number < 1:
            raise FormatError(f"not a checkpoint of portnn: its format is {shown(number)}, expected a whole number")
        if number != FORMAT:
            cure = "update portnn" if number > FORMAT else "go on with the portnn that wrote it"
            raise FormatError(f"checkpoint format {number} {'>' if number > FORMAT else '<'} {FORMAT}; {cure}")
        model_file.check_sum(arrays, metadata.get("sha256", "nothing"))
        record = parse_json(arrays[model_file.RECORD].tobytes(), "the record", constants=True)
        kept = Kept(path, arrays, metadata, record)
        check(kept)
        written = {"format": number, **{name: record[name] for name in STANDING}}
        if record["model"] != metadata.get("portnn") or written != position:
            message = "its metadata are not those that were written: the file is damaged"
            raise FormatError(message)
        return kept


def newest(folder: str, who: str) -> tuple[Kept | None, list[str]]:
    """Return the newest valid checkpoint in a folder, and the paths of newer ones that are not, with a warning.

    None if there is none at all; FormatError if none is valid.
    """
    bad: dict[str, str] = {}
    for _, path in listed(folder):
        try:
            kept = read(path, who)
        except FileNotFoundError:  # another process has just written a newer one
            return newest(folder, who)
        except (FormatError, OSError) as error:  # a disk that cannot read it is a reason to go back, too
            bad[path] = str(error)
            continue
        if bad:
            why = next(iter(bad.values())).removeprefix(f"{who}: ")
            more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
            warnings.warn(f"{who}: going back to {shown(path)}, since {why}{more}", stacklevel=caller())
        return kept, list(bad)
    if bad:
        why = next(iter(bad.values())).removeprefix(f"{who}: ")
        raise FormatError(f"{who}: none of the {len(bad)} checkpoints in {shown(folder)} is valid: {why}"[:480])
    return None, []
