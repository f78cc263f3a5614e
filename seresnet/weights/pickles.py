"""Bounds on a pickle, checked before anything unpickles it: opcodes, nesting, memory, and what its calls are given.

torch's ``weights_only`` unpickler runs no code that a file brings. A crafted file can still end the interpreter (a
tuple nested 200,000 deep, hashed as a key), take all memory (``bytearray(10**12)``) or hang (keys of one hash). Here
the opcodes are followed with stand-ins for the objects, in step with torch's unpickler, which knows the same opcodes.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch._utils import IMPORT_MAPPING, NAME_MAPPING  # of Python 2's names, as torch's unpickler maps them

from seresnet.common.text import one_line

MAX_OPCODES = 3_000_000  # a training state of the largest network with its average and Adam's moments has 0.6 million
MAX_NESTING = 100  # of containers; a training state has about 6
MAX_LEAVES = 1_000_000  # of one tuple, with the leaves of the tuples in it counted each time they appear
MAX_LONGS = 5_000  # integers beyond 32 bits; they can be chosen to have one hash, and slow down a dict of them
MAX_TEXT = 16_000_000  # characters of one string

_ITEM_SIZES = {
    **{"Double": 8, "Long": 8, "ComplexFloat": 8, "ComplexDouble": 16, "Float": 4, "Int": 4, "QInt32": 4},
    **{"Half": 2, "BFloat16": 2, "Short": 2, "QUInt8": 1, "QInt8": 1, "Byte": 1, "Char": 1, "Bool": 1, "Untyped": 1},
    **{"QUInt4x2": 1, "QUInt2x4": 1},
}
_ENCODINGS = ("latin1", "latin-1", "utf-8", "utf8", "ascii")  # others take quadratic time (punycode) or import modules


class PickleError(ValueError):
    """A pickle that is damaged, or beyond the bounds; the message is the reason."""

    @property
    def damaged(self) -> bool:
        """Whether an incomplete download could be the reason."""
        return str(self).startswith(("truncated", "damaged"))


class Opcodes(Protocol):
    """What a pickle is read from: a file, or an ``mmap``."""

    def read(self, n: int, /) -> bytes: ...  # noqa: D102
    def readline(self) -> bytes: ...  # noqa: D102
    def tell(self) -> int: ...  # noqa: D102


@dataclass(frozen=True)
class PickleFacts:
    """What a pickle refers to."""

    names: frozenset[str]  # of classes and functions, "module.name"
    storages: dict[str, int]  # bytes of each tensor storage, by its key
    number: int | None = None  # where the pickle is nothing but an integer


@dataclass(frozen=True)
class _Name:
    """A class or a function."""

    name: str


@dataclass(slots=True, eq=False)
class _Container:
    """A tuple, list, dict, set or object, by how deep and how large it is."""

    depth: int = 1
    leaves: int = 1
    items: tuple[Any, ...] = ()  # of a tuple
    closed: bool = False  # it lies in another one, whose depth would not follow its growth


@dataclass
class _Machine:
    """The stack, the marks and the memo of an unpickler."""

    stack: list[Any] = field(default_factory=list)
    marks: list[list[Any]] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    storages: dict[str, int] = field(default_factory=dict)
    bytes: int = 0  # of all storages
    longs: int = 0

    def to_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def top(self, count: int) -> list[Any]:
        items = self.stack[-count:]
        if len(items) < count:
            raise IndexError
        del self.stack[-count:]
        return items

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def grow(self, items: list[Any]) -> None:
        """Put items into the container on top."""
        container = self.stack[-1]
        if not isinstance(container, _Container):
            raise PickleError("damaged: items for what holds none")
        if container.closed:
            raise PickleError(
                "it holds an object within itself, as torch.save(model) writes it; save model.state_dict()"
            )
        container.depth = max(container.depth, _depth(items))

    def call(self, arguments: Any) -> None:
        """Put the result of a call in place of the function on top."""
        _check_call(self.stack.pop(), arguments)
        self.stack.append(_Container(_depth([arguments])))


def check_pickle(file: Opcodes, largest: int) -> PickleFacts:
    """Read one pickle up to its end without making anything of it; its tensors may have ``largest`` bytes in all.

    Raises PickleError for one that is damaged, that `torch.load` would not read with ``weights_only``, or that is
    beyond the bounds of this module.
    """
    machine, count = _Machine(), 0
    try:
        for opcode, argument, _ in pickletools.genops(file):  # type: ignore[arg-type]
            count += 1
            if count > MAX_OPCODES:
                raise PickleError("it has more instructions than the checkpoint of any network here")
            if opcode.name == "STOP":
                result = machine.stack.pop()
                number = result if isinstance(result, int) else None
                return PickleFacts(frozenset(machine.names), machine.storages, number)
            handler = _HANDLERS.get(opcode.name)
            if handler is None:
                raise PickleError(f"it has the instruction {opcode.name}, which torch.save does not write")
            handler(machine, argument)
            if machine.bytes > largest:
                raise PickleError("it declares more than the file holds")
    except PickleError:
        raise
    except (MemoryError, OverflowError):
        raise PickleError("it declares more than memory holds") from None
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise PickleError(f"truncated or damaged ({one_line(error, 80)})") from None
    raise PickleError("truncated")  # genops ends with STOP, or raises


def _depth(items: list[Any]) -> int:
    """Return the depth of a container of these items, which lie in it from now on."""
    depth = 1
    for item in items:
        if isinstance(item, _Container):
            item.closed = True
            depth = max(depth, item.depth + 1)
    if depth > MAX_NESTING:
        raise PickleError(f"its objects are nested more than {MAX_NESTING} deep")
    return depth


def _tuple(items: list[Any]) -> _Container:
    leaves = sum(item.leaves if isinstance(item, _Container) else 1 for item in items)
    if leaves > MAX_LEAVES:
        raise PickleError("one of its tuples grows without bounds")
    return _Container(_depth(items), max(1, leaves), tuple(items))


def _check_call(function: Any, arguments: Any) -> None:
    """Refuse calls that take memory or time out of proportion to the file; others are left to torch's own rules."""
    name = function.name if isinstance(function, _Name) else ""
    items = arguments.items if isinstance(arguments, _Container) else ()
    kind = name.rpartition(".")[2]
    if name == "builtins.bytearray" or (name.startswith("torch.") and kind.endswith(("Tensor", "Storage")) and items):
        raise PickleError(f"it calls {name}, which could take any amount of memory")
    if name == "_codecs.encode" and not (len(items) == 2 and items[1] in _ENCODINGS):
        raise PickleError("it encodes text in an unusual encoding")
    if name == "torch._tensor._rebuild_from_type_v2":  # calls its first argument with its third one
        _check_call(items[0], items[2])


def _add_name(machine: _Machine, argument: str) -> None:
    module, _, name = argument.partition(" ")
    if (module, name) in NAME_MAPPING:
        module, name = NAME_MAPPING[module, name]
    else:
        module = IMPORT_MAPPING.get(module, module)
    machine.names.add(f"{module}.{name}")
    machine.push(_Name(f"{module}.{name}"))


def _add_storage(machine: _Machine, _: object) -> None:
    """Follow a reference to a storage: ("storage", its type, its key, where it was, its number of elements)."""
    (reference,) = machine.top(1)
    if reference.items[0] == "module":  # source code of a class; torch refuses it
        return machine.push(_Container())
    kind, storage_type, key, _, numel = reference.items[:5]
    size = _ITEM_SIZES.get(storage_type.name.rpartition(".")[2].removesuffix("Storage"))
    if kind != "storage" or size is None or not isinstance(key, str) or not isinstance(numel, int) or numel < 0:
        raise PickleError("damaged: a tensor's storage is described in no known way")
    known = machine.storages.setdefault(key, 0)
    machine.storages[key] = max(known, numel * size)
    machine.bytes += machine.storages[key] - known
    machine.push(_Container())


def _add_text(machine: _Machine, text: str) -> None:
    if len(text) > MAX_TEXT:
        raise PickleError(f"it holds a text of {len(text)} characters")
    machine.push(text)


def _add_long(machine: _Machine, number: int) -> None:
    machine.longs += 1
    if machine.longs > MAX_LONGS:
        raise PickleError(f"it holds more than {MAX_LONGS} integers beyond 32 bits")
    machine.push(number)


def _new_object(machine: _Machine, _: object) -> None:
    (arguments,) = machine.top(1)
    machine.call(arguments)


def _close_tuple(count: int) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.push(_tuple(machine.top(count)))


def _mark(machine: _Machine, _: object) -> None:
    machine.marks.append(machine.stack)
    machine.stack = []


def _fetch(machine: _Machine, index: int) -> None:
    machine.push(machine.memo[index])


def _store(machine: _Machine, index: int) -> None:
    machine.memo[index] = machine.stack[-1]


_HANDLERS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("NONE", "NEWTRUE", "NEWFALSE"), lambda machine, _: machine.push(None)),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "BINFLOAT"), _Machine.push),
    **dict.fromkeys(("EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"), lambda m, _: m.push(_Container())),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINSTRING"), _add_text),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _fetch),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _store),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), _new_object),
    **dict.fromkeys(("APPENDS", "SETITEMS"), lambda machine, _: machine.grow(machine.to_mark())),
    **dict.fromkeys(("APPEND", "BUILD"), lambda machine, _: machine.grow(machine.top(1))),
    "SETITEM": lambda machine, _: machine.grow(machine.top(2)),
    "TUPLE": lambda machine, _: machine.push(_tuple(machine.to_mark())),
    "TUPLE1": _close_tuple(1),
    "TUPLE2": _close_tuple(2),
    "TUPLE3": _close_tuple(3),
    "LONG1": _add_long,
    "GLOBAL": _add_name,
    "MARK": _mark,
    "BINPERSID": _add_storage,
    "PROTO": lambda machine, _: None,
}
