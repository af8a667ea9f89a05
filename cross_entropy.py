"""The loss in chunks: cross-entropy over a large vocabulary without all the logits.

(B * T, vocab) logits are the largest tensor of a training step by far, and their fp32
copies, log-probabilities and gradients are as large again. Nobody needs them all at once:
a few rows can go all the way from logits to loss to gradient in one buffer.
"""
import torch

ROWS_CPU = 256  # 51 MB of fp32 logits at vocab 50304: near a cache, and still good matmuls
ROWS_GPU = 8192  # enough to keep a GPU busy


def add_matmul(
    total: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float, is_first: bool
) -> None:
    """total += scale * a @ b, summed in total's dtype; the first time total holds no number yet."""
    if a.dtype == total.dtype:
        total.addmm_(a, b, beta=0.0 if is_first else 1.0, alpha=scale)
    elif is_first:
        total.copy_(a @ b).mul_(scale)
    else:
        total.add_(a @ b, alpha=scale)


class ChunkedCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of x @ weight.T against targets, without ever holding all logits.

    The logits of `rows` positions at a time are turned, in one reused fp32 buffer, into
    probabilities and on into the gradient of the loss, which two matmuls carry to x and to
    the weight at once: the forward pass leaves nothing to do but scale by the gradient that
    arrives from above. Each logit meets the exponential function once: the loss needs only
    the target's logit and the logarithm of the softmax's denominator, and the most likely
    token gives that away, its probability being exp(highest - logsumexp).
    """

    @staticmethod
    def forward(ctx, x, weight, targets, rows, dtype, need_grad):
        """x (N, C), weight (vocab, C), targets (N) -> the loss, fp32; matmuls in `dtype`."""
        N, x_dtype, weight_dtype = x.size(0), x.dtype, weight.dtype
        x, weight, targets = x.to(dtype), weight.to(dtype), targets.unsqueeze(1)
        loss = torch.zeros((), device=x.device)
        buffer = torch.empty(min(rows, N), weight.size(0), device=x.device)
        logits_buffer = buffer if dtype == torch.float32 else torch.empty_like(buffer, dtype=dtype)
        if need_grad:
            dx = torch.empty_like(x)
            dweight = torch.empty(weight.shape, dtype=weight_dtype, device=x.device)
        for start in range(0, N, rows):
            chunk, target = x[start : start + rows], targets[start : start + rows]
            logits, probs = logits_buffer[: len(chunk)], buffer[: len(chunk)]
            torch.mm(chunk, weight.t(), out=logits)
            highest, target_logit = logits.amax(1), logits.gather(1, target).squeeze(1)
            torch.softmax(logits, dim=1, dtype=torch.float32, out=probs)
            logsumexp = highest - probs.amax(1).log()
            loss += (logsumexp - target_logit).sum()
            if need_grad:
                probs.scatter_(1, target, probs.gather(1, target) - 1)  # softmax - one_hot
                if logits.dtype != probs.dtype:
                    logits.copy_(probs)
                torch.mm(logits, weight, out=dx[start : start + rows])
                add_matmul(dweight, logits.t(), chunk, scale=1 / N, is_first=start == 0)
        if need_grad:
            ctx.save_for_backward(dx.to(x_dtype).div_(N), dweight)
        return loss / N

    @staticmethod
    def backward(ctx, grad):
        dx, dweight = ctx.saved_tensors
        return dx.mul_(grad), dweight.mul_(grad), None, None, None, None


def chunked_cross_entropy(
    x: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """F.cross_entropy(x @ weight.T, targets): x (N, C), weight (vocab, C), targets (N) -> ()."""
    device_type = x.device.type
    autocast = torch.is_autocast_enabled(device_type)
    dtype = torch.get_autocast_dtype(device_type) if autocast else x.dtype
    rows = ROWS_CPU if device_type == "cpu" else ROWS_GPU
    with torch.autocast(device_type, enabled=False):
        return ChunkedCrossEntropy.apply(x, weight, targets, rows, dtype, torch.is_grad_enabled())
