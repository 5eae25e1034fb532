"""Right answers to exercises/lora.py."""

ALTERNATIVES: dict[str, tuple[str, ...]] = {
    "lora_init": (
        """
class Lora(nn.Module):
    def __init__(self, d_in, d_out, rank=4, alpha=32.0):
        super().__init__()
        if rank < 1 or rank > d_in or rank > d_out:
            raise InputError(f"rank {rank} does not fit {d_in} x {d_out}")
        self.alpha = alpha
        self.rank = rank
        self.B = nn.Parameter(torch.zeros(rank, d_out))
        self.A = nn.Parameter((2 * torch.rand(d_in, rank) - 1) * d_in**-0.5)
""",
        """
class Lora(nn.Module):
    def __init__(self, d_in: int, d_out: int, rank: int = 4, alpha: float = 32):
        require_rank(rank, d_in, d_out)
        nn.Module.__init__(self)
        self.register_buffer("steps", torch.zeros(1))
        self.register_parameter("A", nn.Parameter(nn.Linear(d_in, rank, bias=False).weight.T.detach().clone()))
        self.register_parameter("B", nn.Parameter(self.A.new_zeros(rank, d_out)))
        self.__dict__.update(rank=rank, alpha=alpha)
""",
        """
class Lora(nn.Module):
    def __init__(self, d_in, d_out, rank, alpha):
        super().__init__()
        require_rank(rank, d_in, d_out)
        self.rank, self.alpha = rank, alpha
        drawn = nn.init.kaiming_uniform_(torch.empty(rank, d_in), a=5**0.5)
        self.A = nn.Parameter(einops.rearrange(drawn, "rank d_in -> d_in rank"))
        self.B = nn.Parameter(torch.full((rank, d_out), 0.0))
""",
    ),
    "lora_forward": (
        """
class Lora(nn.Module):
    @property
    def scale(self):
        return self.alpha * self.rank**-1

    def forward(self, x):
        out = torch.einsum("...i,ir,ro->...o", x.float(), self.A, self.B)
        return (out * self.scale).type_as(x)
""",
        """
class Lora(nn.Module):
    scale = property(lambda self: self.alpha / self.A.shape[1])
    forward = lambda self, x: (x.to(torch.float32) @ self.delta()).to(x.dtype)
""",
        """
class Lora(nn.Module):
    @property
    def scale(self) -> float:
        return float(self.alpha) / float(self.rank)

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        A, B, x64 = self.A.double(), self.B.double(), x.double()
        narrow = nn.functional.linear(x64, A.T)
        narrow *= self.scale
        return nn.functional.linear(narrow, B.T).to(x.dtype)
""",
        """
def one(x, A, B):
    return einops.einsum(x, A, B, "n i, i r, r o -> n o")


class Lora(nn.Module):
    @property
    def scale(self):
        return self.alpha / self.rank

    def forward(self, x):
        rows = x.reshape(-1, x.shape[-1]).to(self.A.dtype)
        return (one(rows, self.A, self.B) * self.scale).reshape(*x.shape[:-1], -1).to(x.dtype)
""",
    ),
    "lora_delta": (
        """
class Lora(nn.Module):
    @torch.no_grad()
    def delta(self):
        return self.A @ self.B * self.scale
""",
        """
class Lora(nn.Module):
    def delta(self):
        return self(torch.eye(self.A.shape[0]))
""",
        """
class Lora(nn.Module):
    def delta(self):
        total = 0
        for i in range(self.rank):
            total = total + torch.outer(self.A[:, i], self.B[i])
        return total * self.alpha / self.rank
""",
        """
class Lora(nn.Module):
    def delta(self):
        A, B = (side.detach().double().numpy() for side in (self.A, self.B))
        return torch.from_numpy(self.scale * np.einsum("ir,ro->io", A, B)).float()
""",
    ),
    "forward_with_hooks": (
        """
def forward_with_hooks(bridge, fwd_hooks, ids, attention_mask=None, logits_to_keep=None):
    kwargs = {"attention_mask": attention_mask}
    if logits_to_keep is not None:
        kwargs["logits_to_keep"] = logits_to_keep
    with bridge.hooks(fwd_hooks=list(fwd_hooks)):
        logits = bridge(ids, **kwargs)
    return logits.to(torch.float32)
""",
        """
from contextlib import ExitStack


def forward_with_hooks(bridge, fwd_hooks, ids, attention_mask=None, *, logits_to_keep=None):
    if attention_mask is None:
        attention_mask = t.ones_like(ids)
    with ExitStack() as stack:
        for pair in fwd_hooks:
            stack.enter_context(bridge.hooks(fwd_hooks=[pair]))
        if logits_to_keep is None:
            return bridge(ids, attention_mask=attention_mask).float()
        return bridge(ids, attention_mask=attention_mask, logits_to_keep=logits_to_keep).float()
""",
        """
def forward_with_hooks(bridge, fwd_hooks, ids, attention_mask=None, **options):
    context = bridge.hooks(fwd_hooks=fwd_hooks)
    context.__enter__()
    try:
        return 1.0 * bridge(ids, attention_mask=attention_mask, **options).float()
    finally:
        context.__exit__(None, None, None)
""",
    ),
    "adapter_hooks": (
        """
def adapter_hooks(adapted, adapter):
    memory = []

    def add(out, hook):
        change = adapter(memory.pop().flatten(2))
        return out + (change if out.ndim == 3 else einops.rearrange(change, "b s (n h) -> b s n h", n=out.shape[2]))

    remember = lambda x, hook: memory.append(x)
    return [(adapted.bridge_name + ".hook_out", add), (adapted.bridge_name + ".hook_in", remember)]
""",
        """
def adapter_hooks(adapted, adapter):
    contribution = None

    def before(x, hook):
        nonlocal contribution
        batch, seq = x.shape[:2]
        contribution = adapter(x.reshape(batch, seq, -1))

    def after(out, hook):
        nonlocal contribution
        total = out.clone()
        total += contribution.reshape(out.shape)
        contribution = None
        return total

    return [(f"blocks.{adapted.block}.{adapted.map_name}.{end}", f) for end, f in (("hook_in", before), ("hook_out", after))]
""",
        """
class Memory:
    def __init__(self, adapter):
        self.adapter = adapter

    def write(self, activation, hook):
        self.x = activation

    def read(self, activation, hook):
        x = self.x
        del self.x
        return activation.add(self.adapter(torch.flatten(x, start_dim=2)).view(activation.shape))


def adapter_hooks(adapted, adapter):
    memory, name = Memory(adapter), adapted.bridge_name
    return list(zip((f"{name}.hook_in", f"{name}.hook_out"), (memory.write, memory.read)))
""",
        """
def adapter_hooks(adapted, adapter):
    kept = {}

    def remember(x, hook):
        kept[hook.name] = x.flatten(2)
        return x

    def add(out, hook):
        (x,) = kept.values()
        kept.clear()
        return (out.flatten(2) + adapter(x)).view_as(out)

    return [(f"{adapted.bridge_name}.hook_in", remember), (f"{adapted.bridge_name}.hook_out", add)]
""",
    ),
    "lora_fwd_hooks": (
        """
class LoraHooks(nn.Module):
    @property
    def fwd_hooks(self):
        hooks = []
        for m in reversed(self.maps):
            hooks.extend(adapter_hooks(m, self.adapters[m.key]))
        return hooks
""",
        """
class LoraHooks(nn.Module):
    @property
    def fwd_hooks(self):
        return sum((adapter_hooks(m, a) for m, a in zip(self.maps, self.adapters.values())), [])
""",
    ),
    "merged": (
        """
class LoraHooks(nn.Module):
    @contextmanager
    def merged(self):
        if self.is_merged:
            raise RuntimeError("merged already")
        saved = {}
        try:
            for m in self.maps:
                saved[m.key] = m.weight.data.clone()
                change = self.adapters[m.key].delta().detach()
                m.weight.data.add_(change if m.is_transposed else change.t())
            self.is_merged = True
            yield self
        finally:
            for m in self.maps:
                if m.key in saved:
                    m.weight.data.copy_(saved[m.key])
            self.is_merged = False
""",
        """
class Merged:
    def __init__(self, lora):
        self.lora = lora

    @torch.no_grad()
    def __enter__(self):
        lora = self.lora
        if lora.is_merged:
            raise RuntimeError("the adapters are merged")
        sums = []
        for m in lora.maps:
            change = lora.adapters[m.key].delta()
            sums.append((m.weight + (change if m.is_transposed else change.T)).to(m.weight.dtype))
        self.saved = [m.weight.clone() for m in lora.maps]
        for m, total in zip(lora.maps, sums):
            m.weight.copy_(total)
        lora.is_merged = True

    @torch.no_grad()
    def __exit__(self, *error):
        for m, weight in zip(self.lora.maps, self.saved):
            m.weight.copy_(weight)
        self.lora.is_merged = False


class LoraHooks(nn.Module):
    def merged(self):
        return Merged(self)
""",
        """
from contextlib import ExitStack


class LoraHooks(nn.Module):
    @contextmanager
    def merged(self):
        if self.is_merged:
            raise RuntimeError("leave the other block first")
        with ExitStack() as stack:
            stack.callback(setattr, self, "is_merged", False)
            self.is_merged = True
            for m in self.maps:
                weight = m.weight.detach()
                stack.callback(weight.copy_, weight.clone())
                adapter = self.adapters[m.key]
                change = adapter.alpha / adapter.rank * adapter.A.detach() @ adapter.B.detach()
                weight += (change if weight.shape == change.shape and m.is_transposed else change.T).to(weight.dtype)
            yield
""",
    ),
    "lora_model": (
        """
class TransformerWithLora(BridgedTransformer):
    def __init__(self, base_model="pocket", lora_alpha=32.0, rank=4, *, maps=LORA_MAPS, device="auto", dtype="float32"):
        super().__init__(base_model, device=device, dtype=dtype)
        for parameter in self.base_model.parameters():
            parameter.requires_grad = False
        self.lora = LoraHooks(bridge=self.base_model, alpha=lora_alpha, rank=rank, maps=maps)

    @property
    def fwd_hooks(self):
        return super().fwd_hooks + self.lora.fwd_hooks

    def get_base_model_trainable_params(self):
        return [parameter for adapter in self.lora.adapters.values() for parameter in (adapter.B, adapter.A)]
""",
        """
class TransformerWithLora(BridgedTransformer):
    def __init__(self, base_model="pocket", lora_alpha=32, rank=4, maps=LORA_MAPS, **options):
        BridgedTransformer.__init__(self, base_model, **options)
        adapters = LoraHooks(self.base_model, rank, lora_alpha, maps)
        self.requires_grad_(False)
        self.lora = adapters

    @property
    def fwd_hooks(self):
        hooks = list(self.lora_fwd_hooks)
        hooks.extend(super().fwd_hooks)
        return hooks

    def get_base_model_trainable_params(self):
        return [parameter for parameter in self.parameters() if any(parameter is own for own in self.lora.parameters())]
""",
    ),
    "value_head_lora": (
        """
class TransformerWithValueHeadLora(WithValueHead, TransformerWithLora):
    def __init__(self, base_model="pocket", lora_alpha=32.0, rank=4, *, use_value_head=True, **options):
        super().__init__(base_model, lora_alpha, rank, **options)
        self.add_value_head() if use_value_head else setattr(self, "value_head", None)
""",
        """
class TransformerWithValueHeadLora:
    def __init__(
        self, base_model="pocket", lora_alpha=32.0, rank=4, use_value_head=True, maps=LORA_MAPS, device="auto", dtype="float32"
    ):
        TransformerWithLora.__init__(self, base_model, rank=rank, lora_alpha=lora_alpha, maps=maps, device=device, dtype=dtype)
        if not use_value_head:
            self.value_head = None
            return
        self.add_value_head()
""",
    ),
    "lora_parameter_count": (
        """
def lora_parameter_count(shapes, rank):
    total = 0
    for d_in, d_out in shapes:
        total += d_in * rank
        total += rank * d_out
    return total
""",
        """
lora_parameter_count = lambda shapes, rank: int(rank * np.array(list(shapes)).sum())
""",
    ),
    "training_bytes": (
        """
def training_bytes(base_parameters, adapter_parameters=None, bytes_per_number=4):
    kept = base_parameters * bytes_per_number
    trained = 4 * kept if adapter_parameters is None else 16 * adapter_parameters
    return kept + trained
""",
        """
def training_bytes(base_parameters, adapter_parameters=None, *, bytes_per_number=4):
    weight = gradient = first_moment = second_moment = bytes_per_number
    held = weight + gradient + first_moment + second_moment
    match adapter_parameters:
        case None:
            return base_parameters * held + base_parameters * weight
        case _:
            return base_parameters * weight + adapter_parameters * 4 * len(("weight", "gradient", "first", "second"))
""",
    ),
    "peft_tensors": (
        """
def peft_tensors(hooks, names):
    found = {}
    for m in reversed(hooks.maps):
        if names.is_fused(m):
            pair = fuse(hooks.adapters, m, names)
        else:
            pair = hooks.adapters[m.key].A, hooks.adapters[m.key].B
        for side, matrix in zip("AB", pair):
            stored = einops.rearrange(matrix.detach(), "rows columns -> columns rows").contiguous()
            found["base_model.model." + names.path(m) + f".lora_{side}.weight"] = stored.to("cpu")
    return found
""",
        """
def transposed(matrix):
    return torch.from_numpy(np.ascontiguousarray(matrix.detach().cpu().numpy().T))


def peft_tensors(hooks, names):
    pairs = {
        names.path(m): fuse(hooks.adapters, m, names)
        if names.is_fused(m)
        else tuple(hooks.adapters[m.key].get_parameter(side) for side in "AB")
        for m in hooks.maps
    }
    return {
        f"base_model.model.{path}.lora_{side}.weight": transposed(matrix)
        for path, pair in pairs.items()
        for side, matrix in zip("AB", pair)
    }
""",
    ),
}
