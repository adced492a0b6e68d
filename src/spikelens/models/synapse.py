"""What lies between the spikes of one layer and the currents of the next."""

from torch import nn


class Convolution(nn.Sequential):
    """A convolution and what directly follows it: batch normalisation, max-pooling.

    Maps `(N, in_channels, H, W)` to `(N, out_channels, H', W')`.

    Args:
        in_channels: Channels before.
        out_channels: Channels behind.
        kernel_size: Side of the square kernel.
        stride: Step of the kernel.
        padding: Zeros added on each side.
        has_norm: Whether batch normalisation follows, which makes a bias superfluous.
        pool: Side and stride of the max-pooling; 1 for none.
    """

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
