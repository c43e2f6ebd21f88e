"""Numbers of parameters of LM-SPT's networks, added up layer by layer from their description."""

from collections.abc import Sequence


def norms_and_biases(channels: int) -> int:
    """What weight norm and bias add to a convolution."""
    return 2 * channels


def conv(inputs: int, outputs: int, kernel: int) -> int:
    """A convolution with weight norm."""
    return inputs * outputs * kernel + norms_and_biases(outputs)


def residual_unit(channels: int) -> int:
    """Snake, convolution of kernel 7, Snake, convolution of kernel 1."""
    return 2 * channels + conv(channels, channels, 7) + conv(channels, channels, 1)


def dac_encoder(width: int, strides: Sequence[int], dim: int) -> int:
    """The encoder of the release."""
    total = conv(1, width, 7)
    for stride in strides:
        total += 3 * residual_unit(width) + width + conv(width, 2 * width, 2 * stride)
        width *= 2
    return total + width + conv(width, dim, 3)


def dac_decoder(width: int, strides: Sequence[int], dim: int) -> int:
    """The decoder of the release."""
    total = conv(dim, width, 7)
    for stride in strides:
        half = width // 2
        # a transposed convolution has a norm for each input, a bias for each output
        total += width + width * half * 2 * stride + width + half + 3 * residual_unit(half)
        width = half
    return total + width + conv(width, 1, 7)


def conv_transformer(width: int, strides: Sequence[int], dim: int, inner: int = 1024, model: int = 512) -> int:
    """The encoder of the first version: eight layers of width 512 on convolutions."""
    attention, feedforward = 4 * (model * model + model), 2 * model * inner + inner + model
    layers = 8 * (attention + feedforward + 2 * 2 * model)
    ends = (model * model + model) + (model * dim + dim) + 2 * 2 * model
    return dac_encoder(width, strides, model) + layers + ends


def vocos(dim: int, width: int, inner: int, layers: int, n_fft: int) -> int:
    """A Vocos decoder of kernel 7."""
    block = width * 7 + width + 2 * width + (width * inner + inner) + (inner * width + width) + width
    head = width * (n_fft + 2) + n_fft + 2
    return (dim * width * 7 + width) + 2 * width + layers * block + 2 * width + head
