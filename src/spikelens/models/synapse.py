"""What lies between the spikes of one layer and the currents of the next."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.grad import conv2d_input

from spikelens.kernels.pooling import Pooling
from spikelens.kernels.scan import compiler_of

# From which run of outputs that a spike adds to (kernel's side times units) events are faster up to
# which density; measured by benchmarks/event_convolution.py.
_MOST_EVENTS = ((700, 0.25), (160, 0.15), (0, 0.06))


class Convolution(nn.Sequential):
    """A convolution and what directly follows it: batch normalisation, max-pooling.

    Maps `(N, in_channels, H, W)` to `(N, out_channels, H', W')`. Without gradients and in
    evaluation mode the normalisation is folded into the weights. Sparse float32 inputs in training,
    and uint8 inputs (spikes) of a layer whose inputs were sparse in training, are convolved by
    events (`spikelens.kernels.event_convolution`).

    Attributes:
        density: Share of non-zero inputs, moving average over training steps; -1 before, and
            the convolution is then dense in evaluation.

    Args:
        in_channels: Channels before.
        out_channels: Channels behind.
        kernel_size: Side of the square kernel.
        stride: Step of the kernel.
        padding: Zeros added on each side.
        has_norm: Whether batch normalisation follows, which makes a bias superfluous.
        pool: Side and stride of the max-pooling; 1 for none.
    """

    density: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        has_norm: bool = True,
        pool: int = 1,
    ) -> None:
        convolution = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding, bias=not has_norm
        )
        norm = [nn.BatchNorm2d(out_channels)] if has_norm else []
        super().__init__(convolution, *norm, *([nn.MaxPool2d(pool)] if pool > 1 else []))
        self.stride, self.padding, self.has_norm, self.pool = stride, padding, has_norm, pool
        # What a spike adds to a row of outputs, in one run of memory, decides how fast events are.
        run = kernel_size * out_channels
        self.most_events = next(most for length, most in _MOST_EVENTS if run >= length)
        # Kept with the weights, for evaluations must not depend on their batch, nor on whether
        # they follow the training or load its checkpoint.
        self.register_buffer("density", torch.tensor(-1.0))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the currents `(N, out_channels, H', W')` of `inputs` `(N, in_channels, H, W)`."""
        convolution, norm = cast(nn.Conv2d, self[0]), self[1] if self.has_norm else None
        weight: Tensor = convolution.weight
        bias = convolution.bias
        is_folded = self.has_norm and not self.training and not torch.is_grad_enabled()
        if is_folded:
            weight, bias = _fold(weight, cast(nn.BatchNorm2d, norm))
            norm = None
        density = self._measure(inputs) if self.training else self.density
        if self._goes_by_events(inputs, density):
            pooling = Pooling(self.stride, self.padding, 1 if norm is not None else self.pool)
            currents = _convolve(inputs, weight, bias, pooling)
            if norm is None:
                return currents
        else:
            signal = inputs.to(weight.dtype) if inputs.dtype == torch.uint8 else inputs
            currents = functional.conv2d(signal, weight, bias, self.stride, self.padding)
        if norm is not None:
            currents = norm(currents)
        return functional.max_pool2d(currents, self.pool) if self.pool > 1 else currents

    def _measure(self, inputs: Tensor) -> Tensor:
        """Take inputs into the moving average; return their own density."""
        num_spikes: Tensor = torch.linalg.vector_norm(inputs.detach().float(), 0)
        density = (num_spikes / inputs.numel()).to(self.density.dtype)
        moved = self.density.lerp(density, 0.1)
        self.density.copy_(torch.where(self.density < 0, density, moved))
        return density

    def _goes_by_events(self, inputs: Tensor, density: Tensor) -> bool:
        if compiler_of(inputs.device.type) != "numba" or torch.is_autocast_enabled("cpu"):
            return False
        weight = cast(nn.Conv2d, self[0]).weight
        # Floats are convolved by events in training alone; marks of the largest output are bytes.
        kinds = (torch.uint8, torch.float32) if self.training else (torch.uint8,)
        if inputs.dtype not in kinds or weight.dtype != torch.float32 or self.pool > 16:
            return False
        return 0 <= float(density) < self.most_events

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *args: Any) -> None:
        state.setdefault(f"{prefix}density", self.density)  # of a checkpoint older than it
        super()._load_from_state_dict(state, prefix, *args)


def _fold(weight: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return the weight and bias of a convolution and the normalisation behind it."""
    assert norm.running_var is not None
    assert norm.running_mean is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return weight * scale.view(-1, 1, 1, 1), norm.bias - norm.running_mean * scale


def _convolve(inputs: Tensor, weight: Tensor, bias: Tensor | None, pooling: Pooling) -> Tensor:
    if torch.is_grad_enabled():
        currents: Tensor = _EventConvolution.apply(inputs, weight, bias, pooling)
        return currents
    # Only where numba is: it takes a second to import.
    from spikelens.kernels.event_convolution import convolve

    return convolve(inputs, weight, bias, pooling)[0]


class _EventConvolution(torch.autograd.Function):
    """`event_convolution.convolve` and its gradient."""

    @staticmethod
    def forward(
        ctx: Any, spikes: Tensor, weight: Tensor, bias: Tensor | None, pooling: Pooling
    ) -> Tensor:
        from spikelens.kernels.event_convolution import convolve

        currents, largest = convolve(spikes, weight, bias, pooling, is_marked=pooling.pool > 1)
        ctx.save_for_backward(spikes, weight, largest)
        ctx.pooling = pooling
        return currents

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        from spikelens.kernels import event_gradient

        spikes, weight, largest = ctx.saved_tensors
        pooling, pooled = ctx.pooling, grad
        if largest is not None:
            sides = pooling.sides(spikes, weight)
            grad = event_gradient.unpool(pooled, largest, sides, pooling.pool)
        grad_spikes = grad_weight = None
        if ctx.needs_input_grad[0]:
            if largest is not None and pooling.stride == 1:
                maps = spikes.shape[2:]
                grad_spikes = event_gradient.of_spikes(pooled, largest, weight, maps, pooling)
            else:
                grad_spikes = conv2d_input(
                    spikes.shape, weight, grad, pooling.stride, pooling.padding
                )
        if ctx.needs_input_grad[1]:
            grad_weight = event_gradient.of_weight(spikes, grad, weight, pooling)
        grad_bias = grad.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None
        return grad_spikes, grad_weight, grad_bias, None
