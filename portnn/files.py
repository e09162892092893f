"""Writes that happen wholly or not at all, and the words for files that are not what they claim to be."""

import contextlib
import errno
import math
import os
import re
import secrets
import stat
from collections.abc import Collection, Iterable, Iterator

from portnn.errors import FormatError, shown

try:
    import fcntl
except ImportError:  # Windows: nothing is locked there
    fcntl = None  # type: ignore[assignment]

StrPath = str | os.PathLike[str]

MAX_RANK = 8
MAX_EMPTY_EXTENT = 2**31 - 1
MAX_EMPTY_PRODUCT = (2**63 - 1) // 8  # of the extents beside a 0, of elements of 8 bytes

LOCK = ".portnn-lock"  # in a folder while somebody has it alone, and after a kill
_held: set[int] = set()  # descriptors of the locks of this process

_TEMPORARY = re.compile(r"\.portnn-[0-9a-f]{16}\.tmp")  # what atomic_write makes

_FOREIGN = {
    "a pickle, which could run code": rb"\x80[\x02-\x05]|c[A-Za-z_][\w.]*\n[A-Za-z_]\w*\n|\([dl]p\d+\n",
    "a zip archive, such as a .pt, .npz or .xlsx file": rb"PK\x03\x04",
    "a git-LFS pointer: run `git lfs pull` to fetch the file itself": rb"version https://git-lfs",
    "an HTML page: a download brought a web page instead": rb"\s*<(?i:!doctype|html|head|\?xml)",
    "a gzip file": rb"\x1f\x8b",
    "an HDF5 file": rb"\x89HDF\r\n",
    "a NumPy .npy file": rb"\x93NUMPY",
}


def atomic_write(path: StrPath, chunks: Iterable[bytes | memoryview]) -> None:
    """Write ``chunks`` to ``path`` so that a reader, a crash or a power cut sees the old file or the new one.

    The bytes go to ``.portnn-*.tmp`` in the same folder, are synced, take the place of ``path`` by a rename,
    and the folder is synced: on return they are on the disk. Any error, Ctrl-C included, leaves the old file as
    it was and removes the temporary one. A symbolic link is followed; a write-protected file is not replaced.

    Parameters
    ----------
    path
        The file to write; its folder must exist.
    chunks
        Contiguous buffers, written one after the other; may be a generator.

    Raises
    ------
    OSError
        FileNotFoundError, IsADirectoryError, PermissionError, or what the disk says (full, failing).

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     atomic_write(f"{folder}/greeting", [b"hello, ", b"world"])
    ...     pathlib.Path(folder, "greeting").read_bytes()
    b'hello, world'
    """
    target = check_target(path)
    folder = os.path.dirname(target)
    temporary = os.path.join(folder, f".portnn-{secrets.token_hex(8)}.tmp")
    try:
        # Mode x gets 0666 less the umask from the kernel (mkstemp: 0600) and never follows a planted link.
        with open(temporary, "xb") as file:
            if os.path.exists(target):
                _like(temporary, target)
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.errno is not None and error.filename in (None, temporary):
            error.filename = target  # the caller never heard of the temporary name
        raise
    sync_folder(folder)


def _like(path: str, target: str) -> None:
    """Give a new file the group and the mode of the one that it replaces, where the system lets us."""
    own, theirs = os.stat(path), os.stat(target)
    with contextlib.suppress(OSError):
        if own.st_gid != theirs.st_gid and hasattr(os, "chown"):
            os.chown(path, -1, theirs.st_gid)
    with contextlib.suppress(OSError):  # such as a share whose files are another user's
        if stat.S_IMODE(own.st_mode) != stat.S_IMODE(theirs.st_mode):
            os.chmod(path, stat.S_IMODE(theirs.st_mode))


def check_target(path: StrPath) -> str:
    """Return the file that a path stands for, behind symbolic links; OSError where :func:`atomic_write` cannot write.

    Nothing is changed: it may be asked long before there is something to write.

    Examples
    --------
    >>> check_target("no/such/folder/file")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    FileNotFoundError: [Errno 2] No such file or directory: '...folder'

    """
    target = os.path.realpath(path)
    folder = os.path.dirname(target)
    if not os.path.isdir(folder):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), folder)
    with contextlib.suppress(FileNotFoundError):
        os.lstat(target)  # its name may be too long
    if os.path.islink(target):  # realpath gives up only on a loop
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), target)
    if os.path.exists(target):
        mode = os.stat(target).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), target)
        if not stat.S_ISREG(mode):  # a rename would put a file in the place of /dev/null
            raise OSError(errno.EINVAL, "not a regular file", target)
        if not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), target)
    if not os.access(folder, os.W_OK | os.X_OK):  # it takes the new file, whatever may be done to the old one
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), folder)
    return target


def sync_folder(folder: StrPath) -> None:
    """Make renames and new files of a folder durable, where the system can sync one (Windows cannot open it)."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:  # one that can be written to, but not read
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # of a file system that syncs no folders
            raise
    finally:
        os.close(descriptor)


def make_folder(folder: StrPath) -> bool:
    """Make a folder durably unless it is there, and return whether it was made."""
    try:
        os.mkdir(folder)
    except FileExistsError:
        return False
    sync_folder(os.path.dirname(os.path.abspath(folder)))
    return True


@contextlib.contextmanager
def alone(folder: StrPath, who: str) -> Iterator[None]:
    """Have a folder alone, among those who ask for that, until the block ends; it is made if it is not there.

    The kernel lets go of the lock (``flock``) when the process dies, however it dies, so the file that carries it means
    nothing by itself. A process that is forked within the block does not hold it. Where nothing can be locked, on
    Windows and on some network file systems, everybody is let in. A folder that was made goes if nothing is in it.

    Raises
    ------
    BlockingIOError
        Somebody has it.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with alone(folder, "this"):
    ...         try:
    ...             with alone(folder, "that"):
    ...                 pass
    ...         except BlockingIOError as error:
    ...             "is in use by another training; wait until it has ended" in str(error)
    True

    """
    made, path = make_folder(folder), os.path.join(folder, LOCK)
    try:
        descriptor = _locked(folder, path, who)
        try:
            yield
        finally:
            if descriptor in _held:  # it is not in a process that was forked meanwhile
                _held.discard(descriptor)
                with contextlib.suppress(OSError):
                    if os.path.samestat(os.fstat(descriptor), os.lstat(path)):
                        os.unlink(path)
                os.close(descriptor)
    finally:
        if made:
            with contextlib.suppress(OSError):  # it is not empty
                os.rmdir(folder)


def _locked(folder: StrPath, path: str, who: str) -> int | None:
    """Return the descriptor of a file that is locked, and is the one that stands at ``path``; None without locks."""
    if fcntl is None:
        return None
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        except FileNotFoundError:  # who had the folder has just removed it
            make_folder(folder)
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), os.lstat(path)):
                _held.add(descriptor)
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise BlockingIOError(
                f"{who}: the folder {shown(os.fspath(folder))} is in use by another training; wait until it has ended, "
                "or name another folder"
            ) from None
        except FileNotFoundError:  # who had the lock has just let go, and removed its file: again
            pass
        except OSError:  # this file system has no locks
            os.close(descriptor)
            with contextlib.suppress(OSError):
                os.unlink(path)
            return None
        os.close(descriptor)


def _let_go() -> None:
    """Close the locks of the process that this one was forked from, which keeps them."""
    while _held:
        os.close(_held.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


def remove_leftovers(folder: StrPath) -> None:
    """Remove the temporary files that killed writers have left in a folder; nobody may be writing there."""
    for name in os.listdir(folder):
        if _TEMPORARY.fullmatch(name):
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(folder, name))


@contextlib.contextmanager
def naming(function: str, path: StrPath) -> Iterator[None]:
    """Prefix a FormatError raised inside with the function and the file, and keep it to one line."""
    try:
        yield
    except FormatError as error:
        if str(error).startswith(f"{function}: "):  # said further in
            raise
        message = f"{function}: {shown(os.fspath(path))}: {error}"
        raise FormatError(message if len(message) < 480 else message[:480] + "...") from None


def looks_like(head: bytes) -> str:
    """Return " (it looks like ...)" if a file begins like a well-known other kind, else nothing.

    Examples
    --------
    >>> looks_like(b"PK rest")
    ''
    >>> looks_like(b"<html><body>404</body></html>")
    ' (it looks like an HTML page: a download brought a web page instead)'
    """
    kinds = (kind for kind, pattern in _FOREIGN.items() if re.match(pattern, head))
    return next((f" (it looks like {kind})" for kind in kinds), "")


def looks_like_text(head: bytes) -> bool:
    """Return whether a file begins with whole lines or words of text, as a CSV table does.

    Examples
    --------
    >>> looks_like_text(b"length,width\\n5.1,3.5\\n"), looks_like_text(bytes(8) + b"{}")
    (True, False)

    """
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # a character cut off at the end is none that is wrong
            return False
        text = head[: error.start].decode("utf-8")
    return bool(text) and all(character.isprintable() or character in "\r\n\t\ufeff" for character in text)


def check_shape(shape: Collection[int], what: str) -> None:
    """FormatError unless ``shape`` has at most 8 axes and, when it holds no element, only modest extents.

    A shape with elements is held to the bytes that are there; one without, such as (0, 2**62), is backed by
    nothing, and the first product of its extents would overflow; NumPy multiplies those beside the 0, and the bytes of
    an element.
    """
    if len(shape) > MAX_RANK:
        raise FormatError(f"{what} has rank {len(shape)}, at most {MAX_RANK} is allowed")
    if max(shape, default=0) >= 2**63:
        raise FormatError(f"{what} claims an extent of {shown(max(shape))}, which no array has")
    if 0 in shape and max(shape) > MAX_EMPTY_EXTENT:
        raise FormatError(f"{what} has no elements but claims an extent of {shown(max(shape))}")
    if 0 in shape and (product := math.prod(extent for extent in shape if extent)) > MAX_EMPTY_PRODUCT:
        raise FormatError(f"{what} has no elements but claims extents whose product is {shown(product)}")


def listing(names: Iterable[str]) -> str:
    """Up to eight names for an error message, and how many there are beyond.

    Examples
    --------
    >>> listing("abcdefghij")
    "'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h' and 2 more"
    """
    known = sorted(names)
    more = f" and {len(known) - 8} more" if len(known) > 8 else ""
    return ", ".join(shown(name, 30) for name in known[:8]) + more if known else "no tensor"
