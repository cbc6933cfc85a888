"""Pickle programs, run by a machine of our own that can make plain data and nothing else.

Python's unpickler is made to build any object: it alters what it is given (BUILD), makes objects
without calling their class (NEWOBJ, INST, OBJ), takes classes from a registry (EXT1) and hashes
whatever is used as a key. Here a program gets numbers, text, bytes, lists, tuples, dicts and sets; a
name it asks for is looked up in a table of stand-ins and refused when it is not there; only a
stand-in can be called, and only one that is meant to be filled (``Buildable``) takes a state, once.

What a program costs is bounded by its length: no instruction copies what is already there, and keys
are text, numbers and short tuples of them, since hashing tuples that share their parts would take
exponential time. Whoever walks the result must keep to this (visit each object once), and must not
print values that the program chose before their types are known.

Not for pickles of our own making (there are none), nor for instructions that plain data does not need.
"""

import pickletools
import struct
from collections.abc import Callable, Mapping
from typing import BinaryIO

_PLAIN = frozenset({str, bytes, int, float, bool, type(None)})
_LONGEST_KEY = 16  # items of a tuple that serves as a key
_MOST_ARGUMENTS = 16  # of a call
_MOST_BITS = 1024  # of an integer; sizes and offsets have 64, the magic number of torch 77
# What a damaged program makes the machine, pickletools or a stand-in's function raise.
_BROKEN = (
    *(ValueError, TypeError, LookupError, AttributeError, EOFError, OverflowError, MemoryError),
    struct.error,
)


class ProgramError(ValueError):
    """A pickle program that is damaged, or asks for more than plain data."""


class UnknownNameError(ProgramError):
    """A program asks for a name that its reader does not offer.

    Attributes:
        module, name: what it asks for, cut to 80 characters.
    """

    def __init__(self, module: str, name: str):
        self.module, self.name = module[:80], name[:80]
        super().__init__(f"the program asks to load {self.module}.{self.name}")


class Standin:
    """What a program gets for a name or a reference: a token that nothing can alter.

    Subclasses list their fields in ``__slots__`` and are made from the values in that order. One that
    defines ``__call__`` may be called by the program.
    """

    __slots__ = ()

    def __init__(self, *values):
        for name, value in zip(type(self).__slots__, values, strict=True):
            object.__setattr__(self, name, value)

    def __setattr__(self, name, value):
        raise AttributeError(f"{type(self).__name__} cannot be altered")

    def __delattr__(self, name):
        raise AttributeError(f"{type(self).__name__} cannot be altered")

    def __setstate__(self, state):
        raise ProgramError(f"{type(self).__name__} cannot be altered")

    def __reduce_ex__(self, protocol):
        raise TypeError(f"{type(self).__name__} cannot be pickled or copied")


class Buildable(Standin):
    """A stand-in for an object that a program makes from arguments and then fills, once.

    Attributes:
        args: tuple, what it was made from.
        state: what it was filled with; None before.
    """

    __slots__ = ("args", "state")

    def __init__(self, *args):
        object.__setattr__(self, "args", args)
        object.__setattr__(self, "state", None)

    def fill(self, state):
        """Sets the state; only the machine calls this.

        Raises:
            ProgramError: it has one.
        """
        if self.state is not None or state is None:
            raise ProgramError(f"{type(self).__name__} is filled twice, or with nothing")
        object.__setattr__(self, "state", state)


class Maker(Standin):
    """The callable that makes a ``Buildable`` of a kind."""

    __slots__ = ("kind",)

    def __call__(self, *args):
        return self.kind(*args)


class OrderedDict(Standin):
    """``collections.OrderedDict``: a dict; attributes that a program gives it are dropped."""

    __slots__ = ()

    def __call__(self, pairs=None):
        """``pairs``: a list of [key, value], as Python 2 wrote them."""
        pairs = _typed([] if pairs is None else pairs, list)
        found = {as_key(key): value for key, value in pairs}
        pairs.clear()  # taken, not copied: a program that calls this again multiplies nothing
        return found


def as_key(value):
    """``value`` if hashing it is cheap: text, bytes, a number, None, or a short tuple of these.

    Raises:
        ProgramError: it is anything else.
    """
    parts = value if type(value) is tuple else (value,)
    if len(parts) > _LONGEST_KEY or not all(type(part) in _PLAIN for part in parts):
        raise ProgramError("a key that is neither text nor a number")
    return value


def load(
    stream: BinaryIO,
    names: Mapping[tuple[str, str], Standin],
    reference: Callable[[object], object] | None = None,
):
    """Runs the program at the stream's position and leaves the stream behind it.

    Args:
        stream: binary, of any protocol up to 5.
        names: (module, name) -> what a program that asks for it gets. Make them anew for every file.
        reference: what a persistent reference stands for; None = programs may have none.

    Returns:
        Numbers, text, bytes, None, lists, tuples, dicts, sets, and stand-ins. Parts may be shared, and
        a list or dict may contain itself.

    Raises:
        UnknownNameError: a name that ``names`` lacks; nothing was done for it.
        ProgramError: damaged, or an instruction that plain data does not need.
    """
    machine = _Machine(names, reference)
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            machine.step(opcode.name, argument)
        return machine.result()
    except ProgramError:
        raise
    except _BROKEN as error:
        raise ProgramError(
            f"damaged program ({type(error).__name__}: {str(error)[:200]})"
        ) from None


class _Machine:
    """A stack, the stacks below open marks, and a memo."""

    def __init__(self, names, reference):
        self._names, self._reference = names, reference
        self._stack, self._below, self._memo = [], [], {}

    def step(self, name: str, argument):
        """Carries out one instruction of ``pickletools.opcodes``."""
        if name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name]())
        elif name in _VALUES:
            self._stack.append(_VALUES[name](argument))
        elif name in _ACTIONS:
            _ACTIONS[name](self, argument)
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise ProgramError(f"the instruction {name}, which plain data does not need")

    def result(self):
        if self._below or len(self._stack) != 1:
            raise ProgramError("a program that ends before it is complete")
        return self._stack.pop()

    def _mark(self, _):
        self._below.append(self._stack)
        self._stack = []

    def _since_mark(self) -> list:
        found, self._stack = self._stack, self._below.pop()
        return found

    def _pop(self, _):
        if self._stack:
            self._stack.pop()
        else:
            self._since_mark()

    def _put(self, index):
        self._memo[index] = self._stack[-1]

    def _memoize(self, _):
        self._memo[len(self._memo)] = self._stack[-1]

    def _get(self, index):
        self._stack.append(self._memo[index])

    def _tuple(self, _):
        items = self._since_mark()
        self._stack.append(tuple(items))

    def _list(self, _):
        items = self._since_mark()
        self._stack.append(items)

    def _dict(self, _):
        items = self._since_mark()
        self._stack.append(_with_pairs({}, items))

    def _frozenset(self, _):
        items = self._since_mark()
        self._stack.append(frozenset(map(as_key, items)))

    def _appends(self, _):
        self._extend(self._since_mark())

    def _append(self, _):
        self._extend([self._stack.pop()])

    def _extend(self, items):
        _typed(self._stack[-1], list).extend(items)

    def _setitems(self, _):
        items = self._since_mark()
        _with_pairs(_typed(self._stack[-1], dict), items)

    def _setitem(self, _):
        value, key = self._stack.pop(), self._stack.pop()
        _with_pairs(_typed(self._stack[-1], dict), [key, value])

    def _additems(self, _):
        items = self._since_mark()
        _typed(self._stack[-1], set).update(map(as_key, items))

    def _global(self, argument):
        module, _, name = argument.partition(" ")
        self._push_name(module, name)

    def _stack_global(self, _):
        name, module = self._stack.pop(), self._stack.pop()
        self._push_name(_typed(module, str), _typed(name, str))

    def _push_name(self, module, name):
        if (module, name) not in self._names:
            raise UnknownNameError(module, name)
        self._stack.append(self._names[module, name])

    def _reduce(self, _):
        args, function = self._stack.pop(), self._stack.pop()
        if not isinstance(function, Standin) or not callable(function):
            raise ProgramError(f"a call of what is no function ({type(function).__name__})")
        if len(_typed(args, tuple)) > _MOST_ARGUMENTS:
            raise ProgramError(f"a call with {len(args)} arguments")
        self._stack.append(function(*args))

    def _build(self, _):
        state, value = self._stack.pop(), self._stack[-1]
        if isinstance(value, Buildable):
            value.fill(state)
        elif type(value) is not dict:  # attributes of an OrderedDict: dropped
            raise ProgramError(f"an attempt to alter a {type(value).__name__}")

    def _persistent(self, _):
        if self._reference is None:
            raise ProgramError("a reference to something outside the program")
        self._stack.append(self._reference(self._stack.pop()))


def _typed(value, kind: type):
    if type(value) is not kind:
        raise ProgramError(f"a {type(value).__name__} in the place of a {kind.__name__}")
    return value


def _with_pairs(target: dict, items: list) -> dict:
    if len(items) % 2:
        raise ProgramError("a key without a value")
    for key, value in zip(items[::2], items[1::2]):
        target[as_key(key)] = value
    return target


def _integer(value: int) -> int:
    if value.bit_length() > _MOST_BITS:
        raise ProgramError(f"an integer of {value.bit_length()} bits")
    return value


def _same(value):
    return value


def _old_text(value: str) -> str:
    """Text of Python 2, which pickletools gives as latin-1."""
    return value.encode("latin-1").decode("utf-8")


_CONSTANTS = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
_VALUES = {
    **dict.fromkeys(("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"), _integer),
    **dict.fromkeys(("FLOAT", "BINFLOAT", "SHORT_BINUNICODE", "BINUNICODE", "UNICODE"), _same),
    **dict.fromkeys(("SHORT_BINBYTES", "BINBYTES"), _same),
    **dict.fromkeys(("SHORT_BINSTRING", "BINSTRING"), _old_text),
}


def _tuple_of(count: int):
    def action(machine, _):
        stack = machine._stack
        if len(stack) < count:
            raise ProgramError("a tuple without its items")
        stack[-count:] = [tuple(stack[-count:])]

    return action


_ACTIONS = {
    "MARK": _Machine._mark,
    "POP": _Machine._pop,
    "POP_MARK": lambda machine, _: machine._since_mark(),
    "DUP": lambda machine, _: machine._stack.append(machine._stack[-1]),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine._put),
    "MEMOIZE": _Machine._memoize,
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine._get),
    "TUPLE": _Machine._tuple,
    **{f"TUPLE{count}": _tuple_of(count) for count in (1, 2, 3)},
    "LIST": _Machine._list,
    "DICT": _Machine._dict,
    "FROZENSET": _Machine._frozenset,
    "APPEND": _Machine._append,
    "APPENDS": _Machine._appends,
    "SETITEM": _Machine._setitem,
    "SETITEMS": _Machine._setitems,
    "ADDITEMS": _Machine._additems,
    "GLOBAL": _Machine._global,
    "STACK_GLOBAL": _Machine._stack_global,
    "REDUCE": _Machine._reduce,
    "BUILD": _Machine._build,
    "BINPERSID": _Machine._persistent,
}
