"""Makes the traces beside it, without a GPU; its arguments are names, default: all.

Small models run on the CPU under torch's profiler, which sees every allocation. Layers of the size
of a 7B model run as FakeTensors, which have storages but no memory: their sizes are seen at every
operator.
"""

import random
import sys
import weakref
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch._C._profiler import _EventType
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models import Decoder, resnet18, small_cnn
from pyparallel.memory import traces

HERE = Path(__file__).parent


def profiled(run: Callable[[], None]) -> traces.Trace:
    """What `run` allocates on the CPU."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        run()
    events, found = list(seen.profiler.kineto_results.experimental_event_tree()), []
    while events:
        event = events.pop()
        events.extend(event.children)
        if event.typed[0] == _EventType.Allocation:
            found.append((event.start_time_ns, event.typed[1].ptr, event.typed[1].alloc_size))
    builder = traces.TraceBuilder()
    for _, address, num_bytes in sorted(found, key=lambda event: event[0]):
        if num_bytes > 0:
            builder.allocate(address, num_bytes)
        elif num_bytes < 0:
            builder.free(address)
    return builder.finish()


class Storages(TorchDispatchMode):
    """Records the storages that operators make, and their ends."""

    def __init__(self) -> None:
        super().__init__()
        self.builder = traces.TraceBuilder()
        self.known: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self.see(tensor.untyped_storage())
        return result

    def see(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self.known:
            return
        self.builder.allocate(key, storage.nbytes())
        self.known[key] = weakref.ref(storage, lambda _: self.end(key))

    def end(self, key: int) -> None:
        if self.known.pop(key, None) is not None:
            self.builder.free(key)


def faked(run: Callable[[], None]) -> traces.Trace:
    """What `run` would allocate, with no memory behind it."""
    storages = Storages()
    with FakeTensorMode(), storages:
        run()
        return storages.builder.finish()


def train(
    model: nn.Module,
    shapes: list[tuple[int, int]],
    *,
    vocabulary: int,
    accumulate: int = 1,
    autocast: bool = False,
) -> None:
    """AdamW over batches of the given shapes; its states come with the first step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, foreach=True)
    for i, (batch, length) in enumerate(shapes):
        tokens = torch.randint(vocabulary, (batch, length + 1))
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            logits = model(tokens[:, :-1])
        loss = functional.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())
        loss.backward()
        del loss, logits
        if (i + 1) % accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()


def small_decoder(**options) -> Callable[[list[tuple[int, int]]], None]:
    return lambda shapes: train(Decoder(4, 256, 8, 768, 4000), shapes, vocabulary=4000, **options)


def train_images(model: nn.Module, *, steps: int, batch: int, side: int) -> None:
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        functional.cross_entropy(
            model(torch.randn(batch, 3, side, side)), torch.randint(100, (batch,))
        ).backward()
        optimizer.step()


def serve(model: Decoder, *, requests: int, at_once: int, steps: int, longest: int) -> None:
    """Answers that begin and end at any time; keys and values grow by a token a step."""
    running: list[tuple[list[list[Tensor]], list[int]]] = []
    with torch.no_grad():
        for _ in range(steps):
            if len(running) < at_once and requests > 0 and random.random() < 0.3:
                caches = [[] for _ in model.blocks]
                model(torch.zeros(1, random.randrange(16, longest), dtype=torch.long), caches)
                running.append((caches, [random.randrange(8, 200)]))
                requests -= 1
            for caches, left in running:
                model(torch.zeros(1, 1, dtype=torch.long), caches)
                left[0] -= 1
            running = [request for request in running if request[1][0] > 0]


def lengths(steps: int, longest: int, batch: int) -> list[tuple[int, int]]:
    return [(batch, random.randint(longest // 4, longest)) for _ in range(steps)]


def layers_of_7b(layers: int) -> Decoder:
    return Decoder(layers, 4096, 32, 11008, 32000, torch.bfloat16)


def train_7b(layers: int, shapes: list[tuple[int, int]], *, checkpointed: bool = False) -> None:
    model = layers_of_7b(layers)
    model.checkpointed = checkpointed
    train(model, shapes, vocabulary=32000)


def serve_7b() -> None:
    serve(layers_of_7b(2), requests=40, at_once=8, steps=160, longest=2000)


TRACES: dict[str, Callable[[], traces.Trace]] = {
    "gpt_fp32": lambda: profiled(lambda: small_decoder()([(8, 128)] * 3)),
    "gpt_bf16_autocast": lambda: profiled(lambda: small_decoder(autocast=True)([(8, 128)] * 3)),
    "gpt_accumulation": lambda: profiled(lambda: small_decoder(accumulate=4)([(4, 128)] * 8)),
    "gpt_lengths": lambda: profiled(lambda: small_decoder()(lengths(8, 160, 8))),
    "resnet18": lambda: profiled(lambda: train_images(resnet18(), steps=3, batch=16, side=128)),
    "small_cnn": lambda: profiled(lambda: train_images(small_cnn(), steps=3, batch=16, side=64)),
    "7b_layers": lambda: faked(lambda: train_7b(8, [(1, 2048)] * 3)),
    "7b_lengths": lambda: faked(
        lambda: train(layers_of_7b(4), lengths(8, 4096, 1), vocabulary=32000)
    ),
    "7b_checkpointed": lambda: faked(lambda: train_7b(8, lengths(6, 4096, 2), checkpointed=True)),
    "7b_serving": lambda: faked(
        lambda: serve(layers_of_7b(2), requests=40, at_once=8, steps=160, longest=2000)
    ),
}

if __name__ == "__main__":
    for name in sys.argv[1:] or TRACES:
        random.seed(1)
        torch.manual_seed(1)
        trace = TRACES[name]()
        traces.save(trace, HERE / f"{name}.npz")
        size = (HERE / f"{name}.npz").stat().st_size
        print(f"{name}: {len(trace)} events, {size} bytes, {trace.remarks}", flush=True)
