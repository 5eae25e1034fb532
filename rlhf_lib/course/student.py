"""The one door between checkers and a student's code, with three operations: call, value_and_grad, tensors.

Only plain values, tensors and the library's argument classes go in and come out; every other object stays behind the door and
is known by a `Handle`. So the same checkers can run against code in another process. Each operation is written to `trace`,
by which a wrong answer is later recognised as a known mistake.
"""

import bdb
import dataclasses
import inspect
import traceback
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import TypeCheckError
from torch import Tensor, nn

from rlhf_lib.args import InputError
from rlhf_lib.course import NotAttempted
from rlhf_lib.course.assemble import FOREIGN, Implementation
from rlhf_lib.course.expect import Wrong, show
from rlhf_lib.course.shapes import in_plain_words
from rlhf_lib.engine import plain_formulas


@dataclasses.dataclass(frozen=True)
class Handle:
    """An object on the student's side."""

    number: int
    kind: str
    """The object's class."""

    def __repr__(self) -> str:
        """As a student reads it."""
        return f"a {self.kind} object"


class Crash(Wrong):
    """The student's code raised an error."""


class OutOfTime(BaseException):
    """The student's code came to no end; no `except Exception` of its own may catch this."""

    def __init__(self, *lines: tuple[str, str]):
        super().__init__("\n".join(f"{label}: {text}" for label, text in lines))
        self.lines = lines


@dataclasses.dataclass
class Observation:
    """One operation and what came of it."""

    operation: str
    result: Any = None
    raised: str | None = None
    changed: tuple[str, ...] = ()


class Watched(dict):
    """A dictionary of tensors that writes down which of them were looked at: answers may differ in the others."""

    def __init__(self, found: dict[str, Tensor], looked_at: dict[str, Any]):
        super().__init__(found)
        self.looked_at = looked_at

    def __getitem__(self, name: str) -> Tensor:
        value = super().__getitem__(name)
        self.looked_at[name] = remembered(value)
        return value

    def get(self, name: str, default: Any = None) -> Any:
        """The tensor of a name, or the default."""
        present = name in self
        return self[name] if present else default

    def items(self) -> Any:
        """All names and tensors; all are then looked at."""
        return [(name, self[name]) for name in self]

    def values(self) -> Any:
        """All tensors; all are then looked at."""
        return [self[name] for name in self]


class Student:
    """Calls code under check.

    Args:
        build: makes the namespace in which names are looked up; called once, when it is first needed.
        answer: the student's file, whose lines a crash shows.
        seed: of all random inputs, and of torch's generator before every operation.
    """

    def __init__(self, build: Callable[[], dict[str, Any]], answer: Implementation, seed: int):
        self.build, self.answer, self.seed = build, answer, seed
        self.inputs = torch.Generator().manual_seed(seed)
        self.objects: list[Any] = []
        self.trace: list[Observation] = []
        self.called = ""
        self.names: dict[str, Any] | None = None

    # fresh inputs

    def randn(self, *shape: int) -> Tensor:
        """Normal numbers."""
        return torch.randn(*shape, generator=self.inputs)

    def rand(self, *shape: int) -> Tensor:
        """Numbers from 0 to 1."""
        return torch.rand(*shape, generator=self.inputs)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Whole numbers from low to high - 1."""
        return torch.randint(low, high, shape, generator=self.inputs)

    # the three operations

    def call(self, name: str, *args: Any, on: Handle | None = None, **kwargs: Any) -> Any:
        """Call a function, a class or (with `on`) an object's method; an attribute that is no method is read."""
        return self.operate(name, args, kwargs, on, lambda function, inputs, options: function(*inputs, **options))

    def value_and_grad(
        self,
        name: str,
        *args: Any,
        wrt: tuple[int | str | Handle, ...] = (0,),
        weights: Tensor | None = None,
        on: Handle | None = None,
        **kwargs: Any,
    ) -> tuple[Any, dict[Any, Tensor | None]]:
        """A call's value and its gradient; None where none arrives.

        `wrt` has positions of arguments, names of keywords, or objects (then: all their tensors that are trained, by name).
        What is differentiated is the sum of the value times `weights`; a single number needs none.
        """

        def differentiate(function: Callable, inputs: list[Any], options: dict[str, Any]) -> Any:
            leaves = {}
            for item in wrt:
                if isinstance(item, Handle):
                    found = tensors_of(self.objects[item.number])
                    leaves.update({name: tensor for name, tensor in found.items() if tensor.requires_grad})
                else:
                    place = inputs if isinstance(item, int) else options
                    place[item] = place[item].requires_grad_()
                    leaves[item] = place[item]
            value = function(*inputs, **options)
            scalar = to_differentiate(value, weights)
            grads: dict[Any, Tensor | None] = dict.fromkeys(leaves)
            if isinstance(scalar, Tensor) and scalar.requires_grad:
                found = torch.autograd.grad(scalar, list(leaves.values()), allow_unused=True)
                grads = {name: None if g is None else g.detach().clone() for name, g in zip(leaves, found, strict=True)}
            return value, grads

        return self.operate(name, args, kwargs, on, differentiate)

    def tensors(self, owner: Handle, new: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Copies of all tensors of an object by name, after filling those in `new`."""
        found = tensors_of(self.objects[owner.number])
        with torch.no_grad():
            for name, tensor in (new or {}).items():
                if name not in found:
                    has = ", ".join(found) or "none"
                    raise Wrong(("expected", f"a {owner.kind} with a tensor {name}"), ("got", f"only {has}"))
                found[name].copy_(tensor)
        looked_at: dict[str, Any] = {}
        self.trace.append(Observation(f"tensors of {owner.kind}", looked_at))
        return Watched({name: tensor.detach().clone() for name, tensor in found.items()}, looked_at)

    # beneath them

    def has_parameter(self, name: str, parameter: str) -> bool:
        """Whether a function takes an argument of that name: answers with fewer arguments are checked without it."""
        return parameter in inspect.signature(self.find(name, None)).parameters

    def default(self, name: str, parameter: str) -> Any:
        """The default of a function's argument; `inspect.Parameter.empty` where it has none or no such argument."""
        found = inspect.signature(self.find(name, None)).parameters.get(parameter)
        value = inspect.Parameter.empty if found is None else found.default
        self.trace.append(Observation(f"default of {name}'s {parameter}", value))
        return value

    def find(self, name: str, on: Handle | None) -> Any:
        """What a dotted name means, on an object or among the code's own names."""
        if self.names is None:
            self.names = self.guarded(self.build)
        head, *rest = name.split(".")
        if on is not None:
            owner, rest = self.objects[on.number], [head, *rest]
        elif head in self.names:
            owner = self.names[head]
        else:
            remedy = f"none in {self.answer.file}; `rlhf course reset` restores the stub"
            raise Wrong(("expected", f"a definition of {head}"), ("got", remedy))
        for part in rest:
            owner = getattr(owner, part)
        return owner

    def operate(self, name: str, args: tuple, kwargs: dict[str, Any], on: Handle | None, how: Callable) -> Any:
        """Carry out one operation on copies of the arguments, and write it down."""
        inputs, options = self.decode(list(args)), self.decode(kwargs)
        self.called = describe_call(name, inputs, options)
        observation = Observation(f"{'' if on is None else on.kind + '.'}{name}")
        self.trace.append(observation)
        torch.manual_seed(self.seed + 7919 * len(self.trace))
        try:
            function = self.guarded(lambda: self.find(name, on))
            found = self.guarded(lambda: how(function, inputs, options) if is_called(function, inputs, options) else function)
            result = self.encode(found)
            observation.result = remembered(result)
        except Wrong as error:
            observation.raised = str(error)
            raise
        except NotAttempted:
            observation.raised = "NotAttempted"
            raise
        observation.changed = tuple(
            str(key)
            for key, given, copy in pairs(args, kwargs, inputs, options)
            if isinstance(given, Tensor) and not torch.equal(torch.nan_to_num(given), torch.nan_to_num(copy.detach()))
        )
        if observation.changed:
            which = parameter_name(function, observation.changed[0])
            raise Wrong(("expected", "the inputs unchanged"), ("got", f"{which} was changed in place; work on a new tensor"))
        return result

    def guarded(self, work: Callable[[], Any]) -> Any:
        """Run code of the student's as it is written, and turn what it raises into Wrong with the student's own lines."""
        try:
            with plain_formulas():
                return work()
        except (Wrong, NotAttempted):
            raise
        except TypeCheckError as error:
            raise Crash(("expected", "the shapes of the signature"), ("got", in_plain_words(error))) from None
        except SyntaxError as error:
            place = f"{self.answer.file}, line {error.lineno}: {error.msg}"
            raise Crash(("got", place), ("line", (error.text or "").strip())) from None
        except OutOfTime as error:
            raise OutOfTime(*error.lines, *self.own_frames(error)[1:][-1:]) from None
        except (Exception, SystemExit) as error:
            if is_way_out(error):
                raise
            raise Crash(*self.own_frames(error)) from None

    def own_frames(self, error: BaseException) -> list[tuple[str, str]]:
        """The error and those lines of the student's file that led to it."""
        message, text = str(error).strip().splitlines(), self.answer.text.splitlines()
        lines = [("got", f"{type(error).__name__}: {message[0] if message else ''}")]
        for frame in traceback.extract_tb(error.__traceback__):
            number = frame.lineno or FOREIGN
            if frame.filename == self.answer.file and number < FOREIGN:
                lines.append(("line", f"{number}, in {frame.name}:  {text[number - 1].strip()}"))
        return lines

    def decode(self, value: Any) -> Any:
        """Arguments as the student's code receives them: copies of tensors, objects for handles."""
        if isinstance(value, Handle):
            return self.objects[value.number]
        if isinstance(value, Tensor):
            return value.detach().clone()
        if isinstance(value, dict):
            return {key: self.decode(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(self.decode(item) for item in value)
        if dataclasses.is_dataclass(value) and any(isinstance(item, Tensor) for item in vars(value).values()):
            return type(value)(**{key: self.decode(item) for key, item in vars(value).items()})
        return value

    def encode(self, value: Any) -> Any:
        """Results as the checker receives them."""
        if isinstance(value, Tensor):
            return value.detach().clone()
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, dict):
            return {key: self.encode(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.encode(item) for item in value] if isinstance(value, list) else tuple(map(self.encode, value))
        self.objects.append(value)
        return Handle(len(self.objects) - 1, type(value).__name__)


def is_way_out(error: BaseException) -> bool:
    """Whether an error is how a debugger is left, and so no fault of the code."""
    return isinstance(error, bdb.BdbQuit) or type(error).__module__ == "_pytest.outcomes"


def to_differentiate(value: Any, weights: Tensor | None) -> Tensor | None:
    """A single number from a call's value; None where the value has not the expected shape, which its comparison then tells."""
    if not isinstance(value, Tensor) or value.shape != (torch.Size() if weights is None else weights.shape):
        return None
    return value if weights is None else (value * weights).sum()


def remembered(value: Any, most: int = 4096) -> Any:
    """A result as the trace keeps it: of a large tensor only its sums and some entries from all over."""
    if isinstance(value, Tensor) and value.numel() > most:
        flat = value.flatten().double()
        sums = torch.stack([flat.sum(), flat.abs().sum(), flat.square().sum()])
        return list(value.shape), value.dtype, flat[:: flat.numel() // 1024].clone(), sums
    if isinstance(value, dict):
        return {key: remembered(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(remembered(item) for item in value)
    return value


def is_called(found: Any, inputs: list[Any], options: dict[str, Any]) -> bool:
    """Whether what a name means is to be called; a module that an object holds is read unless arguments come with it."""
    return bool(inspect.isroutine(found) or inspect.isclass(found) or (callable(found) and (inputs or options)))


def pairs(args: tuple, kwargs: dict[str, Any], inputs: list[Any], options: dict[str, Any]) -> list[tuple[Any, Any, Any]]:
    """(position or keyword, what was given, the copy that was passed)."""
    return [(i, a, inputs[i]) for i, a in enumerate(args)] + [(key, kwargs[key], options[key]) for key in kwargs]


def tensors_of(owner: Any) -> dict[str, Tensor]:
    """All tensors of an object by name: a module's parameters and buffers, otherwise its attributes, modules' included."""
    if isinstance(owner, nn.Module):
        return {**dict(owner.named_parameters()), **dict(owner.named_buffers())}
    found = {}
    for name, value in vars(owner).items():
        if isinstance(value, Tensor):
            found[name] = value
        elif isinstance(value, nn.Module):
            found.update({f"{name}.{inner}": tensor for inner, tensor in tensors_of(value).items()})
    return found


def parameter_name(function: Callable, place: str) -> str:
    """The name of an argument given by position."""
    if not place.isdigit():
        return place
    try:
        return list(inspect.signature(function).parameters)[int(place)]
    except (ValueError, TypeError, IndexError):
        return f"argument {int(place) + 1}"


def describe_call(name: str, inputs: list[Any], options: dict[str, Any]) -> str:
    """A call as text, tensors by shape."""
    given = [brief(value) for value in inputs] + [f"{key}={brief(value)}" for key, value in options.items()]
    return f"{name}({', '.join(given)})"


def brief(value: Any) -> str:
    """An argument in a few characters."""
    if dataclasses.is_dataclass(value) or isinstance(value, (nn.Module, InputError)):
        return type(value).__name__
    text = show(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
