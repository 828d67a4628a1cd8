"""The compiled side of the pure functions: the only module that knows numba.

It teaches numba the generator of ``dice`` and registers pure Python functions, so that compiled code calls
them by their own names; it decides where machine code is cached; and it offers a few draws to Python callers.
Nothing is compiled at import: setting numba up takes as long as importing it.
"""

# mypy: disallow-untyped-calls=False, disallow-subclassing-any=False
# (numba's own annotations cover little, and how much depends on its version)

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import pickle
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

if "numba" not in sys.modules:
    # Intel's vector library has logarithms of its own: the last bit would depend on how a loop was compiled.
    # Later the variable would do nothing but make numba forget settings made by assignment.
    os.environ.setdefault("NUMBA_DISABLE_INTEL_SVML", "1")

import numba
import numpy as np
from llvmlite import binding, ir
from numba.core.caching import FunctionCache
from numba.core.serialize import dumps
from numba.extending import intrinsic, overload, register_jitable

from sim import compiled_marks, compiled_queues, dice, histogram, order, policy, receiver, workload

types: Any = numba.types
config: Any = numba.config

FORGOTTEN_AFTER_S = 30 * 86_400.0
"""Cache folders of other versions are removed when unused for so long."""

SOURCES = (
    "compiled_attempts",
    "compiled_book",
    "compiled_dispatch",
    "compiled_loop",
    "compiled_marks",
    "compiled_queues",
    "compiled_records",
    "compiled_tally",
    "dice",
    "engine_compiled",
    "histogram",
    "jit",
    "order",
    "policy",
    "receiver",
    "workload",
)
"""The modules whose functions are compiled."""

# --------------------------------------------------------------------------- the cache of machine code


def _fingerprint() -> str:
    """Name of all that decides the machine code: sources of what is compiled, numba, Python, processor."""
    digest = hashlib.blake2b(digest_size=12)
    parts = [numba.__version__, binding.llvm_version_info, platform.python_version()]
    parts += [platform.machine(), binding.get_host_cpu_name()]
    digest.update(repr(parts).encode())
    for path in sorted(Path(__file__).with_name(f"{module}.py") for module in SOURCES):
        content = path.read_bytes()
        digest.update(f"{path.name}:{len(content)}:".encode() + content)
    return digest.hexdigest()


def _cache_root() -> Path:
    if config.CACHE_DIR:  # NUMBA_CACHE_DIR, or set by assignment
        return Path(config.CACHE_DIR).absolute() / "hooklab"
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    # the XDG specification has relative paths ignored
    return (Path(chosen) if os.path.isabs(chosen) else Path.home() / ".cache") / "hooklab"


def _forget_old(root: Path, kept: Path) -> None:
    with contextlib.suppress(OSError):
        for folder in root.iterdir():
            if folder != kept and time.time() - folder.stat().st_mtime > FORGOTTEN_AFTER_S:
                shutil.rmtree(folder, ignore_errors=True)


def _prepare_cache() -> Path | None:
    """The folder for machine code, made and found writable; None compiles in memory.

    numba compares the file of a compiled function with its cache, but not the files of the functions it
    calls: after a change in ``policy.py`` an engine would go on running the old policy. Hence a folder for
    each state of the sources, inside ``NUMBA_CACHE_DIR`` where that is set.
    """
    try:
        root = _cache_root()
        folder = root / _fingerprint()
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
        os.utime(folder)
    except (OSError, RuntimeError):  # a home that is unknown is a RuntimeError
        return None
    _forget_old(root, folder)
    return folder


CACHE_FOLDER = _prepare_cache()
"""Where machine code is kept; None if nothing can be written there."""


class _CarefulCache(FunctionCache):
    """numba's cache, except that a damaged file is a file that is not there.

    numba lets errors of unpickling through and runs machine code unchecked; and two processes that save
    different signatures at once may leave one's code under the other's name. So entries carry a checksum
    and their own key.
    """

    def _load_overload(self, sig: Any, target_context: Any) -> Any:
        if not self._enabled:
            return None
        key = self._index_key(sig, target_context.codegen())
        entry = self._cache_file.load(key)
        if entry is None:
            return None
        checksum, content = entry
        if checksum != hashlib.sha256(content).digest():
            return None
        saved_key, data = pickle.loads(content)
        return self._impl.rebuild(target_context, data) if saved_key == key else None

    def _save_overload(self, sig: Any, data: Any) -> None:
        if not self._enabled or not self._impl.check_cachable(data):
            return
        self._impl.locator.ensure_cache_path()
        key = self._index_key(sig, data.codegen)
        content = dumps((key, self._impl.reduce(data)))
        self._cache_file.save(key, (hashlib.sha256(content).digest(), content))

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compiled function, or None if there is none that can be trusted."""
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # whatever unpickling garbage raises
            with contextlib.suppress(Exception):
                self.flush()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep a compiled function; it works as well when that fails."""
        with contextlib.suppress(Exception):
            super().save_overload(sig, data)


def _cache_of(function: Callable[..., Any]) -> _CarefulCache | None:
    # The setting is for the moment: other packages keep theirs, and numba resets it when its environment
    # changes. A cache that settled elsewhere (beside the source, say) would not notice changed sources.
    before, config.CACHE_DIR = config.CACHE_DIR, str(CACHE_FOLDER)
    try:
        cache = _CarefulCache(function)
        return cache if Path(cache.cache_path).is_relative_to(str(CACHE_FOLDER)) else None
    except Exception:  # numba raises several for code without a file
        return None
    finally:
        config.CACHE_DIR = before


def compiled(*signatures: Any, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Decorate a function to be compiled with numba and kept in ``CACHE_FOLDER`` if there is one.

    Takes what ``numba.njit`` takes. With a signature it compiles (or loads) at once, without at the first call.
    Unlike ``njit(cache=True)`` it survives a cache that is damaged, read-only or out of date. References to arrays
    are not counted (``_nrt``): nothing here makes an array, and counting a dozen of them at every call takes
    several times as long as what is called.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        dispatcher: Any = numba.njit(**{"_nrt": False} | options)(function)
        # with NUMBA_DISABLE_JIT numba hands the function itself back
        if dispatcher is function:
            return function
        if CACHE_FOLDER is not None:
            dispatcher._cache = _cache_of(function) or dispatcher._cache
        for signature in signatures:
            dispatcher.compile(signature)
        if signatures:
            dispatcher.disable_compile()
        return dispatcher

    return decorate


# --------------------------------------------------------------------------- the generator


def _mul128(typing_context: Any, left: Any, right: Any) -> Any:
    """The (high, low) words of the 128-bit product of two 64-bit words: one machine instruction."""
    signature = types.UniTuple(types.uint64, 2)(types.uint64, types.uint64)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide = ir.IntType(128)
        product = builder.mul(builder.zext(arguments[0], wide), builder.zext(arguments[1], wide))
        low = builder.trunc(product, ir.IntType(64))
        high = builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), ir.IntType(64))
        return context.make_tuple(builder, signature.return_type, (high, low))

    return signature, generate


mul128: Any = intrinsic(_mul128)
"""The (high, low) words of the product of two 64-bit words, for compiled code."""


def _ones(typing_context: Any, word: Any) -> Any:
    """The number of ones in a 64-bit word: one machine instruction."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.int64(types.int64), generate


def _zeros_above(typing_context: Any, word: Any) -> Any:
    """The number of zeros above the highest one of a 64-bit word: one machine instruction."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctlz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.int64), generate


_ones_of: Any = intrinsic(_ones)
_zeros_above_of: Any = intrinsic(_zeros_above)


@overload(histogram.leading_bit)
def _leading_bit(value: Any) -> Any:
    def compiled_leading_bit(value: Any) -> Any:
        return 63 - _zeros_above_of(value)

    return compiled_leading_bit


@overload(compiled_marks.ones)
def _overloaded_ones(word: Any) -> Any:
    def compiled_ones(word: Any) -> Any:
        return _ones_of(word)

    return compiled_ones


_INLINED: Any = {"_nrt": False, "forceinline": True}  # see compiled


# Everything is cast first: numba takes the sum of a signed and an unsigned integer for a float.
@overload(dice.philox, inline="never")
def _philox(key0: Any, key1: Any, c0: Any, c1: Any, c2: Any, c3: Any) -> Any:
    def compiled_philox(key0: Any, key1: Any, c0: Any, c1: Any, c2: Any, c3: Any) -> Any:
        key0, key1 = np.uint64(key0), np.uint64(key1)
        c0, c1, c2, c3 = np.uint64(c0), np.uint64(c1), np.uint64(c2), np.uint64(c3)
        for _ in range(10):
            high0, low0 = mul128(np.uint64(0xD2E7470EE14C6C93), c0)
            high1, low1 = mul128(np.uint64(0xCA5A826395121157), c2)
            c0, c1, c2, c3 = high1 ^ c1 ^ key0, low1, high0 ^ c3 ^ key1, low0
            key0 = key0 + np.uint64(0x9E3779B97F4A7C15)
            key1 = key1 + np.uint64(0xBB67AE8584CAA73B)
        return c0, c1, c2, c3

    return compiled_philox


@overload(dice.later_block)
def _later_block(sub: Any, count: Any) -> Any:
    def compiled_later_block(sub: Any, count: Any) -> Any:
        return np.uint64(sub) + (np.uint64(count) << np.uint64(32))

    return compiled_later_block


@overload(compiled_queues.at, jit_options=_INLINED)
def _at(table: Any, row: Any) -> Any:
    def compiled_at(table: Any, row: Any) -> Any:
        return table[np.uint64(row)]

    return compiled_at


@overload(dice.item_word)
def _item_word(base: Any, index: Any) -> Any:
    def compiled_item_word(base: Any, index: Any) -> Any:
        return np.uint64(base) + np.uint64(index)

    return compiled_item_word


_shared: set[Callable[..., Any]] = set()


def share(*functions: Callable[..., Any]) -> None:
    """Let compiled code call pure Python functions by their own names; Python callers notice nothing.

    What a shared function calls must be shared too. Sharing twice is harmless.
    """
    for function in functions:
        if function not in _shared:
            _shared.add(function)
            register_jitable(**_INLINED)(function)


share(*dice.COMPILABLE)

# --------------------------------------------------------------------------- draws for Python callers

_ADDRESS = (types.uint64,) * 6
# read-only, so that both kinds of array are taken
_POINTS = types.Array(types.float64, 1, "C", readonly=True)
_UNIFORM = types.float64(*_ADDRESS)
_DURATION = types.int64(types.int64, types.float64, types.float64, types.float64, _POINTS, *_ADDRESS)


# One cached function each: hashing a signature at every call would cost ten draws.
@functools.cache
def _uniform() -> Any:
    return compiled(_UNIFORM)(dice.uniform)


@functools.cache
def _sample_ns() -> Any:
    return compiled(_DURATION)(dice.sample_ns)


@functools.cache
def _residual_ns() -> Any:
    return compiled(_DURATION)(dice.residual_ns)


def points_array(points: Sequence[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """The ``points`` of a ``Distribution`` in the form compiled code takes."""
    return np.array(points, dtype=np.float64)


def uniform(seed: int, stream: int, event: int, endpoint: int, n: int, sub: int) -> float:
    """``dice.uniform``, compiled."""
    number: float = _uniform()(seed, int(stream), event, endpoint, n, sub)  # an enum takes 50 times as long
    return number


def sample_ns(kind: int, a: float, b: float, c: float, points: Any, *address: int) -> int:
    """``dice.sample_ns``, compiled; ``points`` is an array (see ``points_array``), ``address`` as there."""
    duration: int = _sample_ns()(kind, a, b, c, points, *address)
    return duration


def residual_ns(kind: int, a: float, b: float, c: float, points: Any, *address: int) -> int:
    """``dice.residual_ns``, compiled; ``points`` is an array (see ``points_array``), ``address`` as there."""
    duration: int = _residual_ns()(kind, a, b, c, points, *address)
    return duration


# --------------------------------------------------------------------------- pure functions of the other modules

share(*policy.COMPILABLE, *workload.COMPILABLE, *receiver.COMPILABLE, *histogram.COMPILABLE)


def as_arrays(value: Any) -> Any:
    """A ``NamedTuple`` of plain numbers with its sequences as arrays: the form compiled code takes."""
    fields: dict[str, Any] = {}
    for name, kind in type(value).__annotations__.items():
        item = getattr(value, name)
        if name == "word":
            # half of all words would fit a signed integer, and be another type
            fields[name] = np.uint64(item)
        elif isinstance(item, tuple) and hasattr(item, "_fields"):
            fields[name] = as_arrays(item)
        elif "float" in str(kind) and isinstance(item, Sequence):
            fields[name] = np.array(item, dtype=np.float64)
        elif isinstance(item, Sequence):
            fields[name] = np.array(item, dtype=np.int64)
        else:
            fields[name] = item
    return type(value)(**fields)


_INTS = types.Array(types.int64, 1, "C")
_FLOATS = types.Array(types.float64, 1, "C")


# --- a receiver in one array: arguments of compiled code are looked at one by one at every call, and a dozen
# arrays would cost ten times what the receiver itself does


def _packed(parts: Sequence[Any]) -> Any:
    """Arrays end to end in one array of 64-bit cells, after a table of where each starts and how long it is."""
    cells = [np.ascontiguousarray(part).view(np.int64) for part in parts]
    table = np.zeros(2 * len(cells), dtype=np.int64)
    table[1::2] = [len(cell) for cell in cells]
    table[0::2] = 2 * len(cells) + np.cumsum([0, *table[1::2]])[:-1]
    return np.concatenate([table, *cells])


@register_jitable
def _ints(packed: Any, part: int) -> Any:
    return packed[packed[2 * part] : packed[2 * part] + packed[2 * part + 1]]


@register_jitable
def _floats(packed: Any, part: int) -> Any:
    return _ints(packed, part).view(np.float64)


def _receive_packed(packed: Any, now: int, event: int, attempt: int) -> tuple[int, int, int, int, int]:
    scalars, reals = _ints(packed, 0), _floats(packed, 1)
    latency = dice.Distribution(scalars[0], reals[0], reals[1], reals[2], _floats(packed, 2))
    spec = receiver.Receiver(
        latency,
        scalars[1],
        scalars[2],
        scalars[3],
        scalars[4],
        scalars[5] != 0,
        _ints(packed, 3),
        _floats(packed, 4),
        _ints(packed, 5),
        _ints(packed, 6),
        _ints(packed, 7),
        _ints(packed, 8),
        _floats(packed, 9),
        _floats(packed, 10),
        _floats(packed, 11),
        _ints(packed, 12),
        _floats(packed, 13),
    )
    outages = receiver.Outages(_ints(packed, 14), _ints(packed, 15), _ints(packed, 16))
    free, starts, ring = _ints(packed, 17), _ints(packed, 18), _ints(packed, 19)
    seed: Any = np.uint64(scalars[6])
    endpoint: Any = np.uint64(scalars[7])
    answer = receiver.receive(spec, outages, free, starts, ring, now, seed, event, endpoint, attempt)
    return answer.code, answer.answered, answer.served, answer.processed, answer.retry_after


@functools.cache
def _receive() -> Any:
    return compiled((_INTS, types.int64, types.uint64, types.uint64), _nrt=True)(_receive_packed)


def receiver_of(
    spec: receiver.Receiver, outages: receiver.Outages, seed: int, endpoint: int
) -> Callable[[int, int, int], tuple[int, int, int, int, int]]:
    """The receiver of one endpoint with its books: (now, event word, attempt) → the parts of an ``Answer``."""
    arrays, windows = as_arrays(spec), as_arrays(outages)
    latency = arrays.latency
    words = np.array([seed, endpoint], dtype=np.uint64).view(np.int64)
    numbers = [latency.kind, *arrays[1:6]]
    scalars = np.concatenate((np.array(numbers, dtype=np.int64), words))
    reals = np.array([latency.a, latency.b, latency.c], dtype=np.float64)
    books = [np.array(book, dtype=np.int64) for book in receiver.new_books(spec)]
    packed = _packed([scalars, reals, latency.points, *arrays[6:], *windows, *books])
    return functools.partial(_receive(), packed)


@functools.cache
def _fill() -> Any:
    blank = dice.constant(0.0)
    process = workload.ArrivalProcess(0, 1.0, 0.0, 1, (), (), blank, blank, 1.0)
    source = workload.EventSource(2**63, process, (), (), (), 1, (), (), ())
    columns = (_INTS,) * 4
    signature = (numba.typeof(as_arrays(source)), types.uint64, types.int64, _INTS, _FLOATS, _INTS, *columns)
    return compiled(signature)(workload.fill)


def fill(source: Any, seed: int, horizon: int, *state_and_columns: Any) -> int:
    """``workload.fill``, compiled: arrays throughout."""
    written: int = _fill()(source, seed, horizon, *state_and_columns)
    return written


@functools.cache
def _data_age() -> Any:
    blank = as_arrays(dice.constant(0.0))
    words = (types.uint64, types.uint64)
    return compiled((numba.typeof(blank), *words, types.int64, types.int64, types.int64))(workload.data_age)


def data_age(every: dice.Distribution, seed: int, event: int, *times: int) -> tuple[bool, bool]:
    """``workload.data_age``, compiled."""
    newer, stale = _data_age()(as_arrays(every), seed, event, *times)
    return newer, stale


@functools.cache
def _fill_outages() -> Any:
    blank = as_arrays(dice.constant(0.0))
    drawn = numba.typeof(receiver.RandomOutage(blank, blank, 1.0))
    address = (types.uint64, types.uint64, types.uint64, types.int64)
    return compiled((drawn, *address, types.int64, types.int64, types.int64, _INTS, _INTS))(
        receiver.fill_outages
    )


def random_outages(
    outage: receiver.RandomOutage, seed: int, event: int, endpoint: int, fault: int, until: int
) -> list[tuple[int, int]]:
    """``receiver.random_outages``, compiled: worth its compilation where there are thousands."""

    def fill(spec: Any, *numbers: Any) -> int:
        *places, starts, ends = numbers
        written: int = _fill_outages()(
            spec, *places, np.frombuffer(starts, np.int64), np.frombuffer(ends, np.int64)
        )
        return written

    return receiver.random_outages(as_arrays(outage), seed, event, endpoint, fault, until, fill)


def events(source: Any, seed: int, horizon: int) -> Iterator[tuple[int, int, int, int]]:
    """The events of a source below the horizon, in order: (time, type, key, seq)."""
    spec = as_arrays(source)
    clock = np.array(workload.new_clock(), dtype=np.int64)
    passed, seen = np.zeros(1), np.zeros(source.key_count, dtype=np.int64)
    columns = [np.zeros(4096 + workload.largest_batch(source), dtype=np.int64) for _ in range(4)]
    while True:
        written = fill(spec, seed, horizon, clock, passed, seen, *columns)
        if written == 0:
            return
        yield from zip(*(column[:written].tolist() for column in columns), strict=True)


@functools.cache
def _count_inversions() -> Any:
    return compiled((_INTS, _INTS))(order.count_inversions)


def count_inversions(values: Any) -> int:
    """``order.count_inversions``, compiled, of an array that stays as it is."""
    found: int = _count_inversions()(values.copy(), np.empty_like(values))
    return found


def prepare() -> None:
    """Compile, or load from the cache, all that an engine calls: seconds once, a fraction of one later."""
    _uniform()
    _receive()
    _fill()


def is_cached(function: str) -> bool:
    """Whether machine code of a function (``module.name``) is in the cache: else its first call takes seconds."""
    return CACHE_FOLDER is not None and any(CACHE_FOLDER.rglob(f"{function}-*.nbc"))
