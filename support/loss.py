"""The loss in chunks: cross-entropy over a large vocabulary without all the logits.

(B * T, vocab) logits are the largest tensor of a training step by far, and their fp32
copies, log-probabilities and gradients are as large again. They are never all needed at once:
a few rows can go all the way from logits to loss to gradient, each step overwriting the last.

chunked_cross_entropy -> ChunkedCrossEntropy -> loss_to_gradient, add_matmul; or, compiled,
fusible_forward. TiedEmbedding stands apart.
"""

import torch
from torch.nn import functional as F

# ROWS: rows of bfloat16 logits that exist at once, half as many in fp32. TILE: how many of these
# become loss and gradient at a time, in fp32: on a CPU so few that they stay in its cache.
ROWS_CPU, TILE_CPU = 1024, 64  # at vocab 50304 103 MB and 13 MB
ROWS_GPU, TILE_GPU = 16384, 4096  # 1.6 GB and 0.8 GB


def loss_to_gradient(
    logits: torch.Tensor, target: torch.Tensor, fp32: torch.Tensor | None, need_grad: bool
) -> torch.Tensor:
    """The sum of the losses of logits (n, vocab), given targets (n, 1).

    With need_grad the logits become its gradient, softmax - one_hot. All is done in fp32: in
    place if fp32 is None, else in fp32, (n or more, vocab).

    Each logit is exponentiated once: the loss needs only the target's logit and the logarithm
    of the softmax's denominator, which follows from the highest probability,
    exp(highest - logsumexp).
    """
    tile = logits if fp32 is None else fp32[: len(logits)].copy_(logits)
    highest, target_logit = tile.amax(1), tile.gather(1, target).squeeze(1)
    torch.softmax(tile, dim=1, out=tile)
    logsumexp = highest - tile.amax(1).log()
    if need_grad:
        tile.scatter_(1, target, tile.gather(1, target) - 1)
        if tile is not logits:
            logits.copy_(tile)
    return (logsumexp - target_logit).sum()


def add_matmul(
    total: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float, is_first: bool
) -> None:
    """total += scale * a @ b, summed in total's dtype; if is_first, total is uninitialised."""
    if a.dtype == total.dtype:
        total.addmm_(a, b, beta=0.0 if is_first else 1.0, alpha=scale)
    elif is_first:
        total.copy_(a @ b).mul_(scale)
    else:
        total.add_(a @ b, alpha=scale)


def fusible_forward(
    x: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, rows: int, need_grad: bool
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """The sum of the losses and its gradients for x and weight, in a form for torch.compile.

    The compiler itself makes one kernel of what stands between two matmuls, so that nothing of
    the logits' size is written in fp32. But such a kernel treats all logits alike: gather and
    scatter_ would cut it in two, so each logit is compared with its target instead. Without the
    compiler this form is several times slower than loss_to_gradient.
    """
    loss, dxs, dweight = torch.zeros((), device=x.device), [], None
    ids = torch.arange(weight.size(0), device=x.device)
    for chunk, target in zip(x.split(rows), targets.split(rows)):
        # Only data can tell the compiler to wait: without "+ 0 * loss" it computes the logits of
        # all chunks first, and they are in memory at once.
        chunk = chunk + (0 * loss).to(chunk.dtype)
        logits = chunk @ weight.t()
        logp = torch.log_softmax(logits.float(), dim=1)
        hit = ids == target  # (rows, vocab)
        loss = loss - torch.where(hit, logp, 0).sum()
        if need_grad:
            dlogits = (logp.exp() - hit.float()).to(logits.dtype)
            dxs.append(dlogits @ weight)
            part = (dlogits.t() @ chunk).float()
            dweight = part if dweight is None else dweight + part
    return loss, torch.cat(dxs) if need_grad else None, dweight


class ChunkedCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of x @ weight.T against targets, holding the logits of a few rows.

    The logits of `rows` positions at a time become, tile by tile and in place, the gradient of
    the loss, which two matmuls carry on to x and the weight in the forward pass: the backward
    pass only scales by the gradient that arrives from above. The weight's gradient has `dtype`
    if there is only one chunk; over several it is summed in the weight's dtype. Compiled,
    fusible_forward does the same without tiles.
    """

    @staticmethod
    def forward(ctx, x, weight, targets, rows, tile_rows, dtype, need_grad):
        """x (N, C), weight (vocab, C), targets (N) -> the loss, fp32; matmuls in `dtype`."""
        N, x_dtype, weight_dtype = x.size(0), x.dtype, weight.dtype
        x, weight, targets = x.to(dtype), weight.to(dtype), targets.unsqueeze(1)
        if torch.compiler.is_compiling():
            loss, dx, dweight = fusible_forward(x, weight, targets, rows, need_grad)
            if need_grad:
                ctx.save_for_backward(dx.to(x_dtype) / N, dweight / N)
            return loss / N
        loss = torch.zeros((), device=x.device)
        buffer = torch.empty(min(rows, N), weight.size(0), dtype=dtype, device=x.device)
        fp32 = None
        if dtype != torch.float32:
            fp32 = torch.empty(min(tile_rows, N), weight.size(0), device=x.device)
        if need_grad:
            dx = torch.empty_like(x)
            dweight = torch.empty_like(weight, dtype=dtype if N <= rows else weight_dtype)
        for start in range(0, N, rows):
            chunk = x[start : start + rows]
            logits = torch.mm(chunk, weight.t(), out=buffer[: len(chunk)])
            target = targets[start : start + rows]
            for tile in zip(logits.split(tile_rows), target.split(tile_rows)):
                loss += loss_to_gradient(*tile, fp32, need_grad)
            if need_grad:
                torch.mm(logits, weight, out=dx[start : start + rows])
                add_matmul(dweight, logits.t(), chunk, scale=1 / N, is_first=start == 0)
        if need_grad:
            ctx.save_for_backward(dx.to(x_dtype).div_(N), dweight)
        return loss / N

    @staticmethod
    def backward(ctx, grad):
        dx, dweight = ctx.saved_tensors
        return dx.mul_(grad), dweight.mul_(grad), None, None, None, None, None


def chunk_rows(device_type: str, dtype: torch.dtype) -> int:
    """How many rows of logits exist at once."""
    rows = ROWS_CPU if device_type == "cpu" else ROWS_GPU
    return max(1, 2 * rows // dtype.itemsize)  # as many bytes in fp32


def chunked_cross_entropy(
    x: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """F.cross_entropy(x @ weight.T, targets): x (N, C), weight (vocab, C), targets (N) -> ()."""
    device_type = x.device.type
    autocast = torch.is_autocast_enabled(device_type)
    dtype = torch.get_autocast_dtype(device_type) if autocast else x.dtype
    rows, tile_rows = chunk_rows(device_type, dtype), TILE_CPU if device_type == "cpu" else TILE_GPU
    need_grad = torch.is_grad_enabled()  # asked here: within forward it is always off
    with torch.autocast(device_type, enabled=False):
        return ChunkedCrossEntropy.apply(x, weight, targets, rows, tile_rows, dtype, need_grad)


class TiedEmbedding(torch.autograd.Function):
    """An embedding and its weight's other use, whose gradients meet in one tensor.

    Autograd alone would give the embedding a (vocab, C) gradient of its own, zero except in
    the rows of this batch's tokens, and add the two. Here the rows are added in place to the
    other use's gradient, which nothing else holds.
    """

    @staticmethod
    def forward(ctx, idx, weight):
        """idx (B, T), weight (vocab, C) -> its rows (B, T, C), and the weight for the other use."""
        ctx.save_for_backward(idx)
        # a tensor of its own on the same memory, so that its gradient comes back to `backward`
        return F.embedding(idx, weight), weight.view_as(weight)

    @staticmethod
    def backward(ctx, drows, dweight):
        (idx,) = ctx.saved_tensors
        return None, dweight.index_add_(0, idx.flatten(), drows.flatten(0, 1))
