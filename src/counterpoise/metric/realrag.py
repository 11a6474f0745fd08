r"""RealRAG: trains a retriever to fetch reference images that a text-to-image model lacks, not ones it can draw.

Lyu, Zheng, Jiang, Yan, Zou, Zhou, Zhang, Hu, "RealRAG: Retrieval-augmented Realistic Image Generation via
Self-reflective Contrastive Learning", ICML 2025, arXiv 2502.00848: the reflective negatives, the loss of the retriever,
and generation from a prompt and its retrieved image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int, Int64, UInt8
from PIL import Image
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import Tensor, nn
from torch.nn import functional as F

from counterpoise.data import Images
from counterpoise.data.views import to_float
from counterpoise.errors import InputError, unknown
from counterpoise.learners.method import ImageViews, Index, Labels
from counterpoise.metric.learner import Embedder, MetricLearner
from counterpoise.nets import embed
from counterpoise.nets.constants import ExactConstants
from counterpoise.nets.diffusion import Schedule, UNet, ddim
from counterpoise.nets.heads import mlp
from counterpoise.nets.minimize import train_one_cycle
from counterpoise.nets.text import WORD_DIM, bag_of_words, sentence_encoder
from counterpoise.ops.checks import (
    check_integers,
    check_matrix,
    check_number,
    check_same_columns,
    check_same_shape,
    check_values,
)
from counterpoise.ops.neighbours import nearest
from counterpoise.ops.processes import gather, global_row_indices
from counterpoise.ops.similarity import normalize_rows, similarity_logsumexp

Rows = Float[Tensor, "batch dim"]
Pixels = UInt8[Tensor, "images channels height width"]
Drawn = UInt8[Tensor, "_ _ _ _"]  # images too, of any number and size
Generator = Callable[[Sequence[str], Pixels | None], Drawn]  # (prompts, reference images or None) to images
Pairs = Literal["all", "known"]

SKETCH, RIDGE = 16, 0.1  # side of the small generator's sketches; ridge penalty of the regression to them
SIDE = 28  # largest side of the judge's input images
DRAWS = 4  # images of each prompt that the judge sees
PART = 256  # images processed at a time
LEAST = 0.01  # the smallest learnt temperature, as in CLIP


def real_rag(
    queries: Rows,
    positives: Rows,
    reflective: Rows | None,
    temperature: float | Float[Tensor, ""] = 0.07,
    labels: Int[Tensor, " batch"] | None = None,
    absent: Bool[Tensor, " batch"] | None = None,
) -> Float[Tensor, " all"]:
    r"""InfoNCE from text to image with one additional negative for each query, its reflective negative.

    $-\log \frac{e^{q \cdot p / T}}{e^{q \cdot p / T} + D_{nor} + D_{ref}}$, where $D_{nor}$ sums
    $e^{q \cdot p_j / T}$ over the batch's images of other objects, and $D_{ref} = e^{q \cdot r / T}$.

    Args:
        queries: embeddings of prompts; all rows are normalised here.
        positives: embedding of a real image for each prompt.
        reflective: embedding of the real image most similar to what the generator draws for each prompt; `None` uses
            no reflective negatives.
        temperature: T, above 0; a tensor can have a gradient.
        labels: object of each row; rows of the same object are not negatives; -1 equals no other row. `None`: all rows
            differ.
        absent: marks rows without a reflective negative, whose row in `reflective` is ignored.

    Returns:
        One loss for each query of all processes.

    Raises:
        InputError: for different shapes, labels below -1, NaN, a temperature out of range, or if no query has a
            negative, so that the loss is always 0.

    Examples:
        >>> x = torch.eye(2)
        >>> real_rag(x, x, x)  # the generator draws the positive itself: at least log 2
        tensor([0.6931, 0.6931])
    """
    given = {"queries": queries, "positives": positives}
    given |= {} if reflective is None else {"reflective": reflective}
    check_same_shape(**given)
    for name, x in given.items():
        check_matrix(name, x)
    if isinstance(temperature, Tensor):
        check_values("temperature", temperature, above=0)
    else:
        check_number("temperature", temperature, above=0)
    if absent is not None and absent.shape != queries.shape[:1]:
        raise InputError(f"absent: expected one for each of the {len(queries)} rows, got {list(absent.shape)}")
    if absent is not None and absent.dtype != torch.bool:
        raise InputError(f"absent: expected torch.bool, got {absent.dtype}")
    q, p = normalize_rows(queries), normalize_rows(positives)
    own = global_row_indices(q)
    if labels is not None:
        labels = check_integers("labels", labels, rows=len(queries), low=-1)
        own = labels.where(labels >= 0, -1 - own)
    terms = [(q * p).sum(1) / temperature]
    everyone = gather(own)
    if (everyone != everyone[0]).any():  # otherwise there are no normal negatives
        terms.append(similarity_logsumexp(q, p, 1 / temperature, exclude=(own, own), gather_distributed=True))
    elif reflective is None or (absent is not None and gather(absent).all()):
        raise InputError(
            f"labels: expected two objects in the batch, or a reflective negative, got {len(everyone)} rows of one"
        )
    if reflective is not None:
        logit = (q * normalize_rows(reflective)).sum(1) / temperature
        terms.append(logit if absent is None else logit.masked_fill(absent, -torch.inf))
    return gather(torch.stack(terms).logsumexp(0) - terms[0])


class RealRAGLoss(ExactConstants):
    """The mean of `real_rag` over the queries: `loss(queries, positives, reflective, labels)`.

    Args:
        temperature: above 0.
        learn_temperature: whether the temperature is learnt, starting from `temperature`, which is then at least 0.01.
            As in CLIP, the parameter is the logarithm of its inverse, and in training the inverse stays at most 100.

    Attributes:
        log_scale: the parameter of a learnt temperature; absent otherwise.

    Examples:
        >>> x = torch.eye(2)
        >>> round(RealRAGLoss(temperature=1.0)(x, x, -x).item(), 6)  # log(1 + 1/e + 1/e²)
        0.407606
        >>> round(RealRAGLoss(learn_temperature=True).log_scale.item(), 4)  # log(1 / 0.07)
        2.6593
    """

    log_scale: nn.Parameter

    def __init__(self, temperature: float = 0.07, learn_temperature: bool = False):
        super().__init__()
        check_number("temperature", temperature, above=0)
        self.start, self.learn_temperature = temperature, learn_temperature
        if learn_temperature:
            check_number("temperature", temperature, at_least=LEAST)
            self.register_exact("log_scale", -torch.tensor(temperature, dtype=torch.float64).log(), learn=True)

    @property
    def temperature(self) -> float | Float[Tensor, ""]:
        """The temperature, as a tensor with a gradient if it is learnt."""
        return (-self.log_scale).exp() if self.learn_temperature else self.start

    def forward(
        self,
        queries: Rows,
        positives: Rows,
        reflective: Rows | None,
        labels: Int[Tensor, " batch"] | None = None,
        absent: Bool[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, ""]:
        """The loss of the batch; takes the arguments of `real_rag`.

        Raises:
            InputError: as `real_rag`.
        """
        if self.learn_temperature and self.training:
            with torch.no_grad():  # after the last step, as it were: at the bound it can still return
                self.log_scale.clamp_(max=-math.log(LEAST))
        return real_rag(queries, positives, reflective, self.temperature, labels, absent).mean()


def reflective_negatives(
    generated: Float[Tensor, "prompts dim"],
    database: Float[Tensor, "images dim"],
    labels: Int[Tensor, " prompts"],
    image_labels: Int[Tensor, " images"],
) -> Int64[Tensor, " prompts"]:
    """For each prompt, the index of the real image most similar to the generated one: what the generator knows already.

    If that image shows the prompt's own object, the generator draws the object well enough, and there is no negative.

    Args:
        generated: frozen features of one generated image for each prompt.
        database: frozen features of the real images; compared by cosine, the first wins a tie.
        labels: the object that each prompt asks for.
        image_labels: the object that each real image shows; -1 if unknown.

    Returns:
        Indices of real images, -1 for none.

    Raises:
        InputError: for shapes that do not match, NaN, or no real image.

    Examples:
        >>> real = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> drawn = torch.tensor([[3.0, 1.0], [1.0, 2.0]])
        >>> reflective_negatives(drawn, real, torch.tensor([0, 0]), torch.tensor([0, 1]))
        tensor([-1,  1])
    """
    check_matrix("generated", generated)
    check_matrix("database", database)
    check_same_columns(generated=generated, database=database)
    labels = check_integers("labels", labels, rows=len(generated), low=0)
    image_labels = check_integers("image_labels", image_labels, rows=len(database), low=-1)
    index = nearest(generated, database, 1)[1][:, 0]
    return index.masked_fill(image_labels.to(index.device)[index] == labels.to(index.device), -1)


class Augmented(NamedTuple):
    """Images generated with references.

    Attributes:
        images: the generated images.
        references: index of the real image that was the reference for each.
    """

    images: Drawn
    references: Int64[Tensor, " prompts"]


@torch.no_grad()
def generate_augmented(
    generator: Generator,
    prompts: Sequence[str],
    queries: Float[Tensor, "prompts dim"],
    objects: Float[Tensor, "images dim"],
    pixels: Pixels,
) -> Augmented:
    """Retrieve the best real image for each prompt, and generate from both.

    Args:
        generator: such as `PipelineGenerator`; runs without gradients.
        prompts: texts.
        queries: the retriever's embeddings of the prompts.
        objects: the retriever's embeddings of the real images; the one with the largest cosine is retrieved.
        pixels: the real images.

    Raises:
        InputError: for numbers of rows that do not match, NaN, or no real image.

    Examples:
        >>> def generator(prompts, references):
        ...     return references
        >>> real = torch.arange(2, dtype=torch.uint8).view(2, 1, 1, 1)
        >>> generate_augmented(generator, ["a car"], torch.tensor([[0.0, 1.0]]), torch.eye(2), real).references
        tensor([1])
    """
    check_matrix("queries", queries)
    check_matrix("objects", objects)
    if len(queries) != len(prompts):
        raise InputError(f"queries: expected one for each of the {len(prompts)} prompts, got {len(queries)}")
    if len(objects) != len(pixels):
        raise InputError(f"objects: expected one for each of the {len(pixels)} images, got {len(objects)}")
    references = nearest(queries, objects, 1)[1][:, 0]
    return Augmented(generator(prompts, pixels[references.to(pixels.device)]), references)


class PipelineGenerator:
    """Wraps a diffusers pipeline as a generator that runs one prompt at a time, each from the same seed.

    Args:
        pipeline: text to image: `pipeline(prompt=…).images`.
        augmented: text and image to image: `AutoPipelineForImage2Image.from_pipe(pipeline)`, or a pipeline with an
            IP-Adapter; `None`: `pipeline` takes both.
        argument: name of the argument that takes the reference: "image", "ip_adapter_image", "input_images" …
        shape: channels, height and width of the output; `None`: RGB in the pipeline's own size.
        seed: seed of the noise that each image starts from.
        **options: further arguments of every call, such as `num_inference_steps`.

    Raises:
        InputError: for a pipeline that is not callable.
    """

    def __init__(
        self,
        pipeline: Any,
        augmented: Any = None,
        argument: str = "image",
        shape: tuple[int, int, int] | None = None,
        seed: int = 0,
        **options: Any,
    ):
        augmented = pipeline if augmented is None else augmented
        for name, given in (("pipeline", pipeline), ("augmented", augmented)):
            if not callable(given):
                raise InputError(f"{name}: expected a pipeline of diffusers, got {type(given).__name__}")
        self.pipeline, self.augmented, self.argument = pipeline, augmented, argument
        self.shape, self.seed, self.options = shape, seed, options

    def __call__(self, prompts: Sequence[str], references: Pixels | None = None) -> Drawn:
        """One image for each prompt."""
        made = [self._draw(prompt, None if references is None else references[i]) for i, prompt in enumerate(prompts)]
        return torch.stack([self._pixels(image) for image in made])

    def _draw(self, prompt: str, reference: UInt8[Tensor, "_ _ _"] | None) -> Image.Image:
        options = {"generator": torch.Generator().manual_seed(self.seed), **self.options}
        if reference is None:
            return self.pipeline(prompt=prompt, **options).images[0]
        picture = Image.fromarray(reference.cpu().expand(3, -1, -1).permute(1, 2, 0).numpy())
        return self.augmented(prompt=prompt, **{self.argument: picture}, **options).images[0]

    def _pixels(self, image: Image.Image) -> UInt8[Tensor, "_ _ _"]:
        channels, height, width = self.shape or (3, image.height, image.width)
        image = image.convert("RGB" if channels == 3 else "L").resize((width, height))
        return torch.from_numpy(np.array(image)).view(height, width, channels).movedim(2, 0)


class SmallGenerator(nn.Module):
    """A small generator, trained from scratch: a diffusion model conditioned on a sketch and an optional reference.

    A linear regression makes the sketch from the caption. In training, the reference is the image itself, as for an
    IP-Adapter; for half of the images the sketch replaces it, as for a caption alone.

    Args:
        channels: number of image channels.
        width: channels of the U-Net's first level, a multiple of 2.
        steps: number of DDIM steps.
    """

    regression: Tensor
    mean: Tensor
    size: Tensor

    def __init__(self, channels: int, width: int = 8, steps: int = 10):
        super().__init__()
        check_number("channels", channels, at_least=1, whole=True)
        check_number("width", width, at_least=2, whole=True)
        check_number("steps", steps, at_least=1, whole=True)
        if width % 2:
            raise InputError(f"width: expected a multiple of 2, got {width}")
        self.channels, self.steps = channels, steps
        self.schedule = Schedule()
        self.unet = UNet(3 * channels, width)
        self.register_buffer("regression", torch.zeros(WORD_DIM + 1, channels * SKETCH**2))
        self.register_buffer("mean", torch.zeros(channels * SKETCH**2))
        self.register_buffer("size", torch.ones(2, dtype=torch.int64))
        self.requires_grad_(False)

    def fit(self, pixels: Pixels, captions: Sequence[str], epochs: int, batch_size: int = 16, lr: float = 2e-3) -> None:
        """Train on captioned images.

        Args:
            pixels: the images.
            captions: one for each image.
            epochs: passes over the images.
            batch_size: images a step.
            lr: peak learning rate of AdamW.

        Raises:
            InputError: for numbers out of range, or different numbers of captions and images.
        """
        check_number("epochs", epochs, at_least=0, whole=True)
        check_number("batch_size", batch_size, at_least=1, whole=True)
        check_number("lr", lr, above=0)
        if len(captions) != len(pixels):
            raise InputError(f"captions: expected one for each of the {len(pixels)} images, got {len(captions)}")
        self.size.copy_(torch.tensor(pixels.shape[2:]))
        words, small = bag_of_words(captions), _pooled(pixels)
        self.regression.copy_(_ridge(words, small))
        self.mean.copy_(small.mean(0))

        def error(rows: Tensor) -> Tensor:
            x, sketch = to_float(pixels[rows].to(self.mean.device)), self.sketch(words[rows])
            shown = torch.where((torch.rand(len(rows), 1, 1, 1) < 0.5).to(x.device), x, sketch)
            t, noise = torch.randint(self.schedule.steps, (len(x),), device=x.device), torch.randn_like(x)
            return F.mse_loss(self.clean(self.schedule.noised(x, t, noise), t, sketch, shown), x)

        train_one_cycle(self.unet, error, len(pixels), epochs, batch_size, lr)

    def sketch(self, words: Float[Tensor, "prompts words"]) -> Float[Tensor, "prompts channels height width"]:
        """The regression's output for captions, as images."""
        flat = _with_one(words).to(self.mean) @ self.regression
        return F.interpolate(flat.view(-1, self.channels, SKETCH, SKETCH), self.size.tolist(), mode="bilinear")

    def clean(self, x: Tensor, t: Int[Tensor, " prompts"], sketch: Tensor, shown: Tensor) -> Tensor:
        """The net's estimate of the clean image: what is shown (reference or sketch) plus the net's residual."""
        return shown + self.unet(torch.cat([x, sketch, shown], 1), t)[:, : self.channels]

    def features(self, pixels: Pixels) -> Float[Tensor, "images features"]:
        """Frozen features for comparing images: coarse differences from the mean image."""
        return _pooled(pixels) - self.mean.cpu()

    @torch.no_grad()
    def forward(self, prompts: Sequence[str], references: Pixels | None = None) -> Drawn:
        """One image for each prompt."""
        sketches = self.sketch(bag_of_words(prompts))
        shown = sketches if references is None else to_float(references.to(sketches.device))
        parts = zip(sketches.split(PART), shown.split(PART), strict=True)
        return torch.cat([self._draw(*part) for part in parts])

    def _draw(self, sketch: Tensor, shown: Tensor) -> Drawn:
        def noise(x: Tensor, t: Tensor) -> Tensor:
            signal, sigma = (values[t].view(-1, 1, 1, 1) for values in (self.schedule.signal, self.schedule.sigma))
            return (x - signal * self.clean(x, t, sketch, shown)) / sigma

        made = ddim(noise, self.schedule, torch.randn_like(sketch), self.steps)
        return ((made.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()


def _pooled(pixels: Pixels) -> Float[Tensor, "images features"]:
    return torch.cat([F.adaptive_avg_pool2d(to_float(part), SKETCH).flatten(1) for part in pixels.split(PART)])


def _ridge(x: Float[Tensor, "rows dim"], y: Float[Tensor, "rows out"]) -> Float[Tensor, "dim_and_1 out"]:
    x, y = _with_one(x).double(), y.double()
    return torch.linalg.solve(x.T @ x + RIDGE * torch.eye(x.shape[1]), x.T @ y).float()


def _with_one(x: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows dim_and_1"]:
    return F.pad(x, (0, 1), value=1.0)


class RealRAG(MetricLearner):
    """A text-to-image retriever, trained with negatives that resemble what a generator can draw by itself.

    The prompts are the class names. A small generator first trains on the images of some classes; its drawings for the
    prompts determine the reflective negatives. A run keeps the retriever's image encoder.

    Args:
        encoder: maps images to features; a linear layer on top makes the embeddings. Its attribute `channels` is the
            number of image channels, 1 if it has none.
        samples: number of training images.
        classes: number of classes.
        reflective: use reflective negatives; without them the loss is InfoNCE from text to image.
        pairs: "all" trains the retriever on all classes; "known" on those that the generator has trained on.
        known: share of the classes that the small generator trains on, drawn by the seed; above 0.
        generator_epochs: passes over the images of these classes.
        generator_width: channels of the first level of the generator's U-Net, a multiple of 2.
        temperature: above 0.
        learn_temperature: whether the temperature is learnt, as in CLIP, starting from `temperature`, which is then at
            least 0.01.
        sentences: frozen encoder of the class names, from whose vectors a small MLP makes the embeddings: "words", sums
            of fixed random vectors of words; "minilm" or "hf:PATH", sentence encoders of `nets.text` (extra `text`).
        hidden: width of the MLP's hidden layer.
        generator: replaces the small generator; maps (prompts, references or None) to uint8 images, such as
            `PipelineGenerator`. Its known classes are then those without a reflective negative.
        frozen: encoder of float images in [-1, 1] whose features measure image similarity; required with `generator`,
            in place of the small generator's features.
        text_encoder: replaces `sentences` and the MLP: maps a list of texts to [texts, features], such as CLIP's text
            tower with its tokeniser. Its attribute `features` is this width; a linear layer on top makes the
            embeddings. It is trained with the image encoder, but for parameters that need no gradient.
        **recipe: arguments of `MetricLearner`.
    """

    views = 2
    known: Tensor
    captions: Tensor
    negatives: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        samples: int,
        classes: int,
        reflective: bool = True,
        pairs: Pairs = "all",
        known: float = 0.5,
        generator_epochs: int = 10,
        generator_width: int = 8,
        temperature: float = 0.07,
        learn_temperature: bool = False,
        sentences: str = "words",
        hidden: int = 256,
        generator: Generator | None = None,
        frozen: nn.Module | None = None,
        text_encoder: nn.Module | None = None,
        **recipe: Any,
    ):
        super().__init__(encoder, samples, **recipe)
        check_number("classes", classes, at_least=2, whole=True)
        check_number("known", known, above=0, at_most=1)
        check_number("generator_epochs", generator_epochs, at_least=0, whole=True)
        check_number("generator_width", generator_width, at_least=2, whole=True)
        if pairs not in get_args(Pairs):
            raise unknown("pairs", pairs, get_args(Pairs))
        if (generator is None) != (frozen is None):
            raise InputError("generator and frozen: expected both of them or neither, got one")
        self.reflective, self.pairs, self.share, self.generator_epochs = reflective, pairs, known, generator_epochs
        channels = getattr(encoder, "channels", 1)
        self.small: Any = SmallGenerator(channels, generator_width) if generator is None else None
        self.generator = generator
        self.frozen: Any = None if frozen is None else frozen.requires_grad_(False)
        self.names: Sequence[str] = ()  # of the training images' classes, during training
        self.encode: Any = None  # texts to the vectors that `text` takes; without it, `text` takes texts
        width = 0
        if text_encoder is None:
            self.encode = sentence_encoder(sentences)
            width = WORD_DIM if sentences == "words" else self.encode(["a"]).shape[1]
            normalized = nn.LayerNorm(width, elementwise_affine=False)
            self.text = nn.Sequential(normalized, mlp(width, hidden, self.features, batch_norm=False))
        elif sentences != "words":
            raise InputError(f"sentences: expected it without a text_encoder, which replaces it, got '{sentences}'")
        else:
            self.text = Embedder(text_encoder, _width(text_encoder), self.features)
        self.objective = RealRAGLoss(temperature, learn_temperature)
        self.pixels: Any = None  # of the training images, during training
        self.register_buffer("known", torch.zeros(classes, dtype=torch.bool))
        if text_encoder is None:
            self.register_buffer("captions", torch.zeros(classes, width))
        self.register_buffer("negatives", torch.full((classes,), -1))

    def check_data(self, images: Images, batch_size: int, shares: int = 1) -> None:
        """Check as `MetricLearner` does, and refuse a share of known classes that leaves fewer than 2."""
        super().check_data(images, batch_size, shares)
        count = max(1, round(self.share * len(images.classes)))
        if self.pairs == "known" and self.small is not None and count < 2:
            raise InputError(
                f"known: expected a share with at least 2 of the {len(images.classes)} classes for pairs 'known', "
                f"got {self.share:g}"
            )

    def start_epoch(self, images: Images, epoch: int) -> None:
        """Before the first epoch, train the small generator and find each class's reflective negative."""
        super().start_epoch(images, epoch)
        self.pixels, self.names = images.pixels, images.classes
        if epoch == 0:
            if self.encode is not None:
                self.captions.copy_(self.encode(images.classes))
            self.reflect(images)
        if self.pairs == "known":
            self.class_of[~self.known[self.class_of]] = -1

    def reflect(self, images: Images) -> None:
        """Generate one image of each class, and find the real images most similar to them."""
        classes = len(images.classes)
        if self.small is not None:
            self.known.zero_()[torch.randperm(classes)[: max(1, round(self.share * classes))]] = True
            rows = ((images.labels >= 0) & self.known.cpu()[images.labels]).nonzero().flatten()
            learnt = images.subset(rows)
            names = [images.classes[label] for label in learnt.labels.tolist()]
            self.small.fit(learnt.pixels, names, self.generator_epochs)
        drawn = self.frozen_features(self.draw(images.classes, like=images.pixels))
        real = self.frozen_features(images.pixels)
        self.negatives.copy_(reflective_negatives(drawn, real, torch.arange(classes), images.labels))
        if self.small is None:
            self.known.copy_(self.negatives < 0)
        if dist.is_available() and dist.is_initialized():
            for found in (*self.parameters(), *self.buffers()):
                dist.broadcast(found.data, 0)  # since sums on accelerators may differ in their last bits

    def draw(self, prompts: Sequence[str], references: Drawn | None = None, *, like: Pixels) -> Drawn:
        """Generated images with the channels and the size of the images `like`."""
        made = (self.small if self.generator is None else self.generator)(prompts, references)
        wanted = like.shape[1:]
        if made.shape[1:] == wanted:
            return made
        resized = F.interpolate(made.float(), tuple(wanted[1:]), mode="bilinear", antialias=True)
        resized = resized.mean(1, keepdim=True) if wanted[0] == 1 else resized
        return resized.round().clamp(0, 255).to(torch.uint8).expand(-1, wanted[0], -1, -1)

    @torch.no_grad()
    def frozen_features(self, pixels: Pixels) -> Float[Tensor, "images features"]:
        """Features of the frozen encoder, for comparing images."""
        if self.small is not None:
            return self.small.features(pixels)
        encoder = self.frozen.eval()
        return torch.cat([encoder(to_float(part.to(self.device))).cpu() for part in pixels.split(PART)])

    def views_of(self, pixels: Pixels, labels: Labels, index: Index) -> ImageViews:
        """A view of each image, and a view of the reflective negative of its class."""
        other = self.pixels[self.negatives[labels].clamp(min=0).cpu()].to(pixels.device)
        return [self.view(pixels), self.view(other)]

    def loss(self, images: ImageViews, labels: Labels, index: Index) -> Float[Tensor, ""]:
        """The loss of the embeddings of class names, images, and existing reflective negatives."""
        view, negatives = (x[labels >= 0] for x in images)
        labels = labels[labels >= 0]
        present = (self.negatives[labels] >= 0) & self.reflective
        embedded = self.encoder(torch.cat([view, negatives[present]]))
        positives = embedded[: len(view)]
        reflective = torch.zeros_like(positives).index_put((present,), embedded[len(view) :])
        return self.objective(self._queries_of(labels), positives, reflective, labels, ~present)

    def _queries_of(self, labels: Labels) -> Float[Tensor, "batch dim"]:
        """The embedding of each image's class name; a text encoder gets every name once."""
        if self.encode is not None:
            return self.text(self.captions[labels])
        distinct, place = labels.unique(return_inverse=True)
        return self._of_texts([self.names[label] for label in distinct.tolist()])[place]

    def _of_texts(self, texts: Sequence[str]) -> Float[Tensor, "texts dim"]:
        if self.encode is not None:
            return self.text(self.encode(texts).to(self.device))
        encoder, layer = self.text
        made = encoder(list(texts))
        if made.shape != (len(texts), layer.in_features):
            wanted = [len(texts), layer.in_features]
            raise InputError(f"text_encoder: expected features of shape {wanted}, got {list(made.shape)}")
        return layer(made)

    @torch.no_grad()
    def queries(self, prompts: Sequence[str]) -> Float[Tensor, "prompts dim"]:
        """The retriever's embeddings of texts, in evaluation mode."""
        training = self.text.training
        self.text.eval()
        found = self._of_texts(prompts).cpu()
        self.text.train(training)
        return found

    def diagnostics(self, train: Images, probe: Images, test: Images) -> dict[str, float]:
        """How well images are retrieved and generated for the names of unseen and of known classes.

        The database holds all training images and the images in `probe` of the unseen ("novel") classes. The judge is a
        linear discriminant analysis of the pixels of all images, including `test`.

        `novel precision`: the share of names for which an image of their class is retrieved. `novel lookalike`: the
        share for which the retrieved image is of another class and the most similar to the generator's own drawing.
        `novel accuracy`: the share of generated images that the judge assigns to the wanted class, `novel without` the
        same without retrieval, and `novel gain` their difference. `known …`: the same for classes that the generator
        knows. `reflective`: the share of training classes with a reflective negative. `temperature`: if it is learnt.
        """
        shift = len(train.classes)
        labels = torch.cat([train.labels, *(torch.where(x.labels < 0, -1, x.labels + shift) for x in (probe, test))])
        pixels = torch.cat([train.pixels, probe.pixels, test.pixels])
        judge = Judge(pixels, labels)
        pixels, labels = pixels[: len(train) + len(probe)], labels[: len(train) + len(probe)]
        objects = torch.cat([embed(self.encoder, images, to_float) for images in (train, probe)])
        frozen = self.frozen_features(pixels)
        found = {"reflective": float((self.negatives >= 0).float().mean())}
        if self.objective.learn_temperature:
            found["temperature"] = float(self.objective.log_scale.detach().neg().exp())
        names = [*train.classes, *test.classes]
        novel = probe.labels.unique()
        for name, wanted in (("novel", novel[novel >= 0] + shift), ("known", self.known.cpu().nonzero().flatten())):
            if not len(wanted):
                continue
            prompts = [names[label] for label in wanted.tolist()]
            with torch.random.fork_rng():
                torch.manual_seed(0)
                drawn = [self.draw(prompts, like=pixels) for _ in range(DRAWS)]
                made = [
                    generate_augmented(self._draw_like(pixels), prompts, self.queries(prompts), objects, pixels)
                    for _ in range(DRAWS)
                ]
            retrieved = labels[made[0].references]
            alike = labels[nearest(self.frozen_features(drawn[0]), frozen, 1)[1][:, 0]]
            right = retrieved == wanted
            without, accuracy = (
                judge.share(torch.cat(x), wanted.repeat(DRAWS)) for x in (drawn, [m.images for m in made])
            )
            found |= {
                f"{name} precision": float(right.float().mean()),
                f"{name} lookalike": float((~right & (retrieved == alike)).float().mean()),
                f"{name} accuracy": accuracy,
                f"{name} without": without,
                f"{name} gain": accuracy - without,
            }
        return found

    def _draw_like(self, pixels: Pixels) -> Generator:
        return lambda prompts, references: self.draw(prompts, references, like=pixels)


def _width(text_encoder: Any) -> int:
    features = getattr(text_encoder, "features", None)
    if not isinstance(features, int) or not isinstance(text_encoder, nn.Module):
        raise InputError(
            "text_encoder: expected a module with an attribute `features`, the length of its feature vectors"
        )
    return features


class Judge:
    """Classifies images by a linear discriminant analysis of their pixels, independent of all trained parts.

    Args:
        pixels: training images.
        labels: class of each image; -1 leaves it out.
    """

    def __init__(self, pixels: Pixels, labels: Int[Tensor, " images"]):
        pixels, labels = pixels[labels >= 0], labels[labels >= 0]
        classes = len(labels.unique())
        self.analysis = LinearDiscriminantAnalysis("lsqr", shrinkage=0.5, priors=np.full(classes, 1 / classes))
        self.analysis.fit(self._seen(pixels), labels.numpy())

    def share(self, pixels: Pixels, labels: Int[Tensor, " images"]) -> float:
        """The share of images that it assigns to their label: its accuracy."""
        return float((self.analysis.predict(self._seen(pixels)) == labels.numpy()).mean())

    @staticmethod
    def _seen(pixels: Pixels) -> np.ndarray:
        height, width = (min(SIDE, side) for side in pixels.shape[2:])
        parts = [F.adaptive_avg_pool2d(part / 255, (height, width)).flatten(1) for part in pixels.split(PART)]
        return torch.cat(parts).numpy()
