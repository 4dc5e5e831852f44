"""A captioner: an encoder reads a picture's patches, a decoder writes words that look at them.

Source:
    Liu et al. 2021, "CPTR: Full Transformer Network for Image Captioning", arXiv:2101.10804.
    The decoder: Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762, section 3.
    The stem: Hassani et al. 2021, "Escaping the Big Data Paradigm with Compact Transformers",
    arXiv:2104.05704, section 3.3.

The idea: to say what a picture shows is to translate it. The encoder of a translator does not care
that its vectors stand for words: give it a vector for each patch of a picture, and the decoder, one
token after the other, looks at the patches as it would at the words of a source.

Differences from the papers: the patches come from convolutions, as those of the compact
transformer, which learns from few and small pictures; the norm stands before each sublayer and at
the end of each stack (Xiong et al. 2020, arXiv:2002.04745), GELU throughout; positions of patches
and words are learned; the output matrix is that of the token embeddings, with a bias. The tests
hold it equal to `torch.nn.TransformerEncoder` and `torch.nn.TransformerDecoder`.

Letters: P pictures, R captions (several to a picture in beam search), C channels, G patches a side,
N = G * G patches, T caption length, D d_model, H heads, E d_head, F d_ff, V vocabulary.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo import Config
from zoo.errors import ConfigError
from zoo.nn import Cache, LayerNorm, SourceCache, VisionEncoderDecoder, attend, attend_source


@dataclass(frozen=True, kw_only=True)
class CaptionerConfig(Config):
    """Sizes of a captioner. A caption is read as `start_id` and its tokens, and ends with `end_id`.

    Attributes:
        vocab_size: V.
        max_seq_len: T at most, `start_id` counted.
        image_size: pixels a side, which pictures are brought to.
        n_layers: of the decoder.
        n_encoder_layers: of the encoder.
        n_convolutions: K; each is 3 x 3 and halves the picture's sides.
        stem_width: channels of all convolutions but the last, which has D.
        image_mean: of each channel, from 0 to 1; taken away before the model sees a pixel.
        image_std: likewise; what is left is divided by it.
    """

    vocab_size: int
    max_seq_len: int
    image_size: int
    d_model: int
    n_layers: int
    n_encoder_layers: int
    n_heads: int
    d_ff: int
    n_convolutions: int = 2
    stem_width: int = 64
    n_channels: int = 3
    dropout: float = 0.0
    norm_eps: float = 1e-5
    image_mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    image_std: tuple[float, ...] = (0.5, 0.5, 0.5)
    pad_id: int = 0
    start_id: int = 0
    end_id: int = 1

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "max_seq_len", "image_size", "d_model", "n_layers", "n_heads")
        self.require_positive(*sizes, "n_encoder_layers", "d_ff", "n_convolutions", "stem_width")
        self.require_positive("n_channels")
        self.require_divisible("d_model", "n_heads")
        for name in ("image_mean", "image_std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # JSON has lists
            if len(getattr(self, name)) != self.n_channels:
                raise ConfigError(
                    f"{name} has {len(getattr(self, name))} numbers, n_channels={self.n_channels}"
                )
        if not all(value > 0 for value in self.image_std):
            raise ConfigError(f"image_std must be above 0, got {self.image_std}")
        for name in ("pad_id", "start_id", "end_id"):
            if not 0 <= (value := getattr(self, name)) < self.vocab_size:
                raise ConfigError(f"{name} must be a token, 0 to {self.vocab_size - 1}: {value}")
        if self.end_id == self.pad_id:
            raise ConfigError(f"end_id and pad_id are both {self.pad_id}: an end is no padding")

    @property
    def grid(self) -> int:
        """Patches a side, G; a side that cannot be halved is rounded up."""
        side = self.image_size
        for _ in range(self.n_convolutions):
            side = (side + 1) // 2
        return side


class Stem(nn.Module):
    """K times: a 3 x 3 convolution without bias, ReLU, the maximum of 3 x 3, by steps of two."""

    def __init__(self, config: CaptionerConfig) -> None:
        super().__init__()
        widths = [config.n_channels, *[config.stem_width] * (config.n_convolutions - 1)]
        widths.append(config.d_model)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1, bias=False)
            for before, after in zip(widths, widths[1:], strict=False)
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Pictures (P, C, S, S) to a vector for each patch (P, N, D), row by row."""
        for convolution in self.convolutions:
            pixels = F.max_pool2d(F.relu(convolution(pixels)), 3, stride=2, padding=1)
        return pixels.flatten(2).transpose(1, 2)


class SelfAttention(nn.Module):
    """Multi-head attention of patches, or of the words of a caption, to each other."""

    def __init__(self, config: CaptionerConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model)
        self.out = nn.Linear(config.d_model, config.d_model)

    def forward(
        self, x: Tensor, causal: bool = False, cache: Cache | None = None, layer: int = 0
    ) -> Tensor:
        R, T, D = x.shape
        qkv = self.qkv(x).view(R, T, 3, self.n_heads, D // self.n_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()  # each (R, H, T, E)
        mask = None
        if cache is not None:
            mask = cache.mask(T)
            k, v = cache.update(layer, k, v)  # all so far
        mixed = attend(q, k, v, mask, causal=causal)
        return self.out(mixed.transpose(1, 2).reshape(R, T, D))  # type: ignore[no-any-return]


class PictureAttention(nn.Module):
    """Multi-head attention of a caption to its picture: where to look while writing."""

    def __init__(self, config: CaptionerConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.query = nn.Linear(config.d_model, config.d_model)
        self.key_value = nn.Linear(config.d_model, 2 * config.d_model)
        self.out = nn.Linear(config.d_model, config.d_model)

    def forward(
        self, x: Tensor, memory: Tensor, cache: SourceCache | None = None, layer: int = 0
    ) -> Tensor:
        R, T, D = x.shape
        q = self.query(x).view(R, T, self.n_heads, D // self.n_heads).transpose(1, 2)
        if cache is None:
            k, v = self.keys_values(memory)
        else:
            k, v = cache.source(layer, lambda: self.keys_values(memory))
        mixed = attend_source(q, k, v)  # (R, H, T, E)
        return self.out(mixed.transpose(1, 2).reshape(R, T, D))  # type: ignore[no-any-return]

    def keys_values(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """What every caption of a picture looks at, at every step: (P, H, N, E) each."""
        P, N, D = memory.shape
        both = self.key_value(memory).view(P, N, 2, self.n_heads, D // self.n_heads)
        k, v = both.permute(2, 0, 3, 1, 4)
        return k, v


class FeedForward(nn.Module):
    """Each position on its own: widen to F, GELU, back to D."""

    def __init__(self, config: CaptionerConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.d_model, config.d_ff)
        self.down = nn.Linear(config.d_ff, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))  # type: ignore[no-any-return]


class EncoderBlock(nn.Module):
    """Every patch looks at all others, then each is changed on its own."""

    def __init__(self, config: CaptionerConfig) -> None:
        super().__init__()
        D, eps = config.d_model, config.norm_eps
        self.norm_1, self.norm_2 = LayerNorm(D, eps), LayerNorm(D, eps)
        self.attention = SelfAttention(config)
        self.feed_forward = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.norm_1(x)))
        return x + self.dropout(self.feed_forward(self.norm_2(x)))  # type: ignore[no-any-return]


class DecoderBlock(nn.Module):
    """A word looks back, then at the picture, then is changed on its own."""

    def __init__(self, config: CaptionerConfig) -> None:
        super().__init__()
        D, eps = config.d_model, config.norm_eps
        self.norm_1, self.norm_2, self.norm_3 = (LayerNorm(D, eps) for _ in range(3))
        self.attention = SelfAttention(config)
        self.picture_attention = PictureAttention(config)
        self.feed_forward = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, memory: Tensor, cache: SourceCache | None, layer: int) -> Tensor:
        x = x + self.dropout(self.attention(self.norm_1(x), True, cache, layer))
        x = x + self.dropout(self.picture_attention(self.norm_2(x), memory, cache, layer))
        return x + self.dropout(self.feed_forward(self.norm_3(x)))  # type: ignore[no-any-return]


class Captioner(VisionEncoderDecoder):
    """Pixels and the ids of captions to logits of the captions' next tokens."""

    config_class = CaptionerConfig

    def __init__(self, config: CaptionerConfig) -> None:
        super().__init__()
        self.config: CaptionerConfig = config
        self.max_len = config.max_seq_len
        D = config.d_model
        self.stem = Stem(config)
        self.patch_positions = nn.Parameter(torch.empty(config.grid**2, D))
        self.encoder = nn.ModuleList(EncoderBlock(config) for _ in range(config.n_encoder_layers))
        self.encoder_norm = LayerNorm(D, config.norm_eps)
        self.embedding = nn.Parameter(torch.empty(config.vocab_size, D))
        self.positions = nn.Parameter(torch.empty(config.max_seq_len, D))
        self.decoder = nn.ModuleList(DecoderBlock(config) for _ in range(config.n_layers))
        self.decoder_norm = LayerNorm(D, config.norm_eps)
        self.output_bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.dropout = nn.Dropout(config.dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Normal of deviation 0.02, biases 0; convolutions as He et al. 2015, arXiv:1502.01852."""
        for name, parameter in self.named_parameters():
            if name.startswith("stem."):
                nn.init.kaiming_normal_(parameter)
            elif parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def read(self, source: Tensor, real: Tensor) -> Tensor:
        """Memory (P, N, D) of pictures (P, C, S, S)."""
        x = self.dropout(self.stem(source) + self.patch_positions)
        for block in self.encoder:
            x = block(x)
        return self.encoder_norm(x)  # type: ignore[no-any-return]

    def write(
        self, ids: Tensor, memory: Tensor, real: Tensor | None, cache: SourceCache | None
    ) -> Tensor:
        """Logits (R, T, V) of captions (R, T), with a cache of what goes on from it."""
        T = ids.shape[1]
        steps = torch.arange(T, device=ids.device)[None] if cache is None else cache.positions(T)
        x = F.embedding(ids, self.embedding) + F.embedding(steps, self.positions)  # (R, T, D)
        x = self.dropout(x)
        for layer, block in enumerate(self.decoder):
            x = block(x, memory, cache, layer)
        return F.linear(self.decoder_norm(x), self.embedding, self.output_bias)
