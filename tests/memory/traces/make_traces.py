"""Makes the traces beside it, without a GPU: `python tests/memory/traces/make_traces.py [NAME...]`.

Small models run on the CPU under torch's profiler, which sees every allocation. Layers of the size of a
7B model run as FakeTensors, which have storages but no memory: their sizes are seen at every operator.
"""

import random
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch._C._profiler import _EventType
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

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
    recording = traces.Recording()
    for _, address, num_bytes in sorted(found, key=lambda event: event[0]):
        if num_bytes > 0:
            recording.allocate(address, num_bytes)
        elif num_bytes < 0:
            recording.free(address)
    return recording.finish()


class Storages(TorchDispatchMode):
    """Records the storages that operators make, and their ends."""

    def __init__(self) -> None:
        super().__init__()
        self.recording = traces.Recording()
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
        self.recording.allocate(key, storage.nbytes())
        self.known[key] = weakref.ref(storage, lambda _: self.end(key))

    def end(self, key: int) -> None:
        if self.known.pop(key, None) is not None:
            self.recording.free(key)


def faked(run: Callable[[], None]) -> traces.Trace:
    """What `run` would allocate, with no memory behind it."""
    storages = Storages()
    with FakeTensorMode(), storages:
        run()
        trace = storages.recording.finish()
    return trace


class Block(nn.Module):
    """A layer of a decoder: attention and a gated MLP, as Llama has them."""

    def __init__(self, width: int, heads: int, hidden: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.heads = heads
        linear = lambda a, b: nn.Linear(a, b, bias=False, dtype=dtype)  # noqa: E731
        self.norms = nn.ModuleList(nn.RMSNorm(width, dtype=dtype) for _ in range(2))
        self.query, self.key, self.value, self.out = (linear(width, width) for _ in range(4))
        self.gate, self.up, self.down = linear(width, hidden), linear(width, hidden), linear(hidden, width)

    def forward(self, x: Tensor, cache: list[Tensor] | None = None) -> Tensor:
        y = self.norms[0](x)
        split = lambda t: t.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # noqa: E731
        query, key, value = split(self.query(y)), split(self.key(y)), split(self.value(y))
        if cache is not None:
            if cache:
                key, value = torch.cat([cache[0], key], 2), torch.cat([cache[1], value], 2)
            cache[:] = key, value
        y = functional.scaled_dot_product_attention(query, key, value, is_causal=x.shape[1] > 1)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        y = self.norms[1](x)
        return x + self.down(functional.silu(self.gate(y)) * self.up(y))


class Decoder(nn.Module):
    def __init__(self, layers: int, width: int, heads: int, hidden: int, vocabulary: int, dtype=torch.float32) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width, dtype=dtype)
        self.blocks = nn.ModuleList(Block(width, heads, hidden, dtype) for _ in range(layers))
        self.head = nn.Linear(width, vocabulary, bias=False, dtype=dtype)
        self.checkpointed = False

    def forward(self, tokens: Tensor, caches: list[list[Tensor]] | None = None) -> Tensor:
        x = self.embed(tokens)
        for i, block in enumerate(self.blocks):
            if self.checkpointed:
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x, caches[i] if caches is not None else None)
        return self.head(x)


def train(
    model: nn.Module, shapes: Iterator[tuple[int, int]], *, vocabulary: int, accumulate: int = 1, autocast: bool = False
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


def small_decoder(**options) -> Callable[[Iterator[tuple[int, int]]], None]:
    return lambda shapes: train(Decoder(4, 256, 8, 768, 4000), shapes, vocabulary=4000, **options)


class Residual(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        conv = lambda a, b, k, s: nn.Sequential(nn.Conv2d(a, b, k, s, k // 2, bias=False), nn.BatchNorm2d(b))  # noqa: E731
        self.body = nn.Sequential(conv(before, after, 3, stride), nn.ReLU(), conv(after, after, 3, 1))
        self.skip = conv(before, after, 1, stride) if (before, stride) != (after, 1) else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.body(x) + self.skip(x))


def resnet18(classes: int = 100) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    before = 64
    for i, width in enumerate((64, 128, 256, 512)):
        layers += [Residual(before, width, 1 + (i > 0)), Residual(width, width, 1)]
        before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes))


def small_cnn() -> nn.Module:
    widths, layers = (3, 32, 64, 128, 256), []
    for before, after in zip(widths, widths[1:], strict=False):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(256 * 16, 100))


def train_images(model: nn.Module, *, steps: int, batch: int, side: int) -> None:
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        functional.cross_entropy(model(torch.randn(batch, 3, side, side)), torch.randint(100, (batch,))).backward()
        optimizer.step()


def serve(model: Decoder, *, requests: int, at_once: int, steps: int, longest: int) -> None:
    """Answers that begin and end at any time; a request's keys and values grow by a token a step."""
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


@contextmanager
def seeded() -> Iterator[None]:
    random.seed(1), torch.manual_seed(1)
    yield


def lengths(steps: int, longest: int, batch: int) -> list[tuple[int, int]]:
    return [(batch, random.randint(longest // 4, longest)) for _ in range(steps)]


def layers_of_7b(layers: int) -> Decoder:
    return Decoder(layers, 4096, 32, 11008, 32000, torch.bfloat16)


def checkpointed_7b() -> None:
    model = layers_of_7b(8)
    model.checkpointed = True
    train(model, lengths(6, 4096, 2), vocabulary=32000)


TRACES: dict[str, Callable[[], traces.Trace]] = {
    "gpt_fp32": lambda: profiled(lambda: small_decoder()([(8, 128)] * 3)),
    "gpt_bf16_autocast": lambda: profiled(lambda: small_decoder(autocast=True)([(8, 128)] * 3)),
    "gpt_accumulation": lambda: profiled(lambda: small_decoder(accumulate=4)([(4, 128)] * 8)),
    "gpt_lengths": lambda: profiled(lambda: small_decoder()(lengths(8, 160, 8))),
    "resnet18": lambda: profiled(lambda: train_images(resnet18(), steps=3, batch=16, side=128)),
    "small_cnn": lambda: profiled(lambda: train_images(small_cnn(), steps=3, batch=16, side=64)),
    "7b_layers": lambda: faked(lambda: train(layers_of_7b(8), [(1, 2048)] * 3, vocabulary=32000)),
    "7b_lengths": lambda: faked(lambda: train(layers_of_7b(4), lengths(8, 4096, 1), vocabulary=32000)),
    "7b_checkpointed": lambda: faked(checkpointed_7b),
    "7b_serving": lambda: faked(lambda: serve(layers_of_7b(2), requests=40, at_once=8, steps=160, longest=2000)),
}

if __name__ == "__main__":
    for name in sys.argv[1:] or TRACES:
        with seeded():
            trace = TRACES[name]()
        traces.save(trace, HERE / f"{name}.npz")
        size = (HERE / f"{name}.npz").stat().st_size
        print(f"{name}: {len(trace)} events, {size} bytes, left out {trace.left_out}", flush=True)
