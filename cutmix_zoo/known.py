"""Constants of known datasets: image size, mean, standard deviation, classes, licence."""

from __future__ import annotations

from dataclasses import dataclass, replace

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD


@dataclass(frozen=True)
class KnownDataset:
    """What a run has to know about a dataset before it opens it."""

    name: str
    """Our name for it."""
    input_size: tuple[int, int, int]
    """(channels, height, width) that networks for it take by convention."""
    mean: tuple[float, ...]
    """Mean of each channel, pixels scaled to [0, 1]."""
    std: tuple[float, ...]
    """Standard deviation of each channel, pixels scaled to [0, 1]."""
    num_classes: int
    """Number of classes."""
    classes: tuple[str, ...]
    """Label names in the dataset's own order; empty for ImageNet, whose names are in ``timm.data.ImageNetInfo``, and
    for CUB-200-2011, whose files have them."""
    licence: str
    """What its owners allow, as they state it."""
    homepage: str
    """Where it comes from."""
    title: str
    """What it is called in writing."""
    hub_id: str
    """Its name on the Hugging Face Hub."""
    validation_images: int | None
    """How many images to validate on it has; ``None`` for what is made of another dataset's."""
    validation_split: str = "test"
    """What its owners call them."""


_FASHION_MNIST_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

_CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_CIFAR100_CLASSES = tuple(
    """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
    caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
    flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
    motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
    poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
    squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
    wardrobe whale willow_tree wolf woman worm
    """.split()  # noqa: SIM905  quoted, they would take a hundred lines
)

# The official CutMix code's constants, which it uses for both CIFAR datasets.
_CIFAR_MEAN = (125.3 / 255, 123.0 / 255, 113.9 / 255)
_CIFAR_STD = (63.0 / 255, 62.1 / 255, 66.7 / 255)

# Measured over the 60,000 training images. The mini set shares them, so that a model can move between the two.
_FASHION_MNIST_MEAN = (0.28604,)
_FASHION_MNIST_STD = (0.35302,)
# Measured over the 60,000 training canvases.
_CANVAS_MEAN = (0.19135,)
_CANVAS_STD = (0.18281,)


_FASHION_MNIST = KnownDataset(
    name="fashion_mnist",
    input_size=(1, 28, 28),
    mean=_FASHION_MNIST_MEAN,
    std=_FASHION_MNIST_STD,
    num_classes=10,
    classes=_FASHION_MNIST_CLASSES,
    licence="MIT",
    homepage="https://github.com/zalandoresearch/fashion-mnist",
    title="Fashion-MNIST",
    hub_id="zalando-datasets/fashion_mnist",
    validation_images=10_000,
)
_CIFAR10 = KnownDataset(
    name="cifar10",
    input_size=(3, 32, 32),
    mean=_CIFAR_MEAN,
    std=_CIFAR_STD,
    num_classes=10,
    classes=_CIFAR10_CLASSES,
    licence="none stated; its authors ask to cite Krizhevsky, 2009",
    homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
    title="CIFAR-10",
    hub_id="uoft-cs/cifar10",
    validation_images=10_000,
)
_IMAGENET = KnownDataset(
    name="imagenet",
    input_size=(3, 224, 224),
    mean=IMAGENET_DEFAULT_MEAN,
    std=IMAGENET_DEFAULT_STD,
    num_classes=1000,
    classes=(),
    licence="ImageNet terms of access: non-commercial research and education",
    homepage="https://www.image-net.org",
    title="ImageNet-1k",
    hub_id="ILSVRC/imagenet-1k",
    validation_images=50_000,
    validation_split="validation",
)

KNOWN_DATASETS: dict[str, KnownDataset] = {
    known.name: known
    for known in (
        _FASHION_MNIST,
        replace(
            _FASHION_MNIST,
            name="fashion_mnist_mini",
            title="Fashion-MNIST (10,000 + 2,000 of its images)",
            validation_images=None,
        ),
        replace(
            _FASHION_MNIST,
            name="fashion_mnist_canvas",
            input_size=(1, 56, 56),
            mean=_CANVAS_MEAN,
            std=_CANVAS_STD,
            title="Fashion-MNIST on canvases of 56 x 56",
            validation_images=None,
        ),
        _CIFAR10,
        replace(
            _CIFAR10,
            name="cifar100",
            num_classes=100,
            classes=_CIFAR100_CLASSES,
            title="CIFAR-100",
            hub_id="uoft-cs/cifar100",
        ),
        _IMAGENET,
        replace(
            _IMAGENET,
            name="cub200",
            num_classes=200,
            licence="none stated; its authors ask to cite Wah et al., 2011",
            homepage="https://www.vision.caltech.edu/datasets/cub_200_2011/",
            title="CUB-200-2011",
            hub_id="bentrevett/caltech-ucsd-birds-200-2011",
            validation_images=5_794,
            validation_split="test",
        ),
    )
}

FOLDERS = ("folder", "torch/folder", "torch/image_folder")
"""What folders of anybody's images are called."""

_VALIDATION = ("validation", "val", "test")
"""What timm and torchvision call the one split that has labels, beside the training split."""

_OTHER_NAMES = {
    **dict.fromkeys(("imagenet_1k", "imagenet_1k_wds", "imagenet2012"), "imagenet"),
    **dict.fromkeys(("caltech_birds2011", "caltech_ucsd_birds_200_2011"), "cub200"),
}
"""What they are called on the Hugging Face Hub and in TensorFlow Datasets, where that is another name than ours."""


def known_dataset(name: str) -> KnownDataset | None:
    """Look up the constants of a dataset by our name, or by what it is called where timm gets it from.

    What counts is what follows the last slash, in lower case and with ``_`` for ``-``; ``imagenet-1k``,
    ``imagenet-1k-wds`` and ``imagenet2012`` are ImageNet, ``caltech_birds2011`` and ``caltech-ucsd-birds-200-2011``
    are CUB-200-2011.

    Args:
        name: one of our names, or that of torchvision, TensorFlow Datasets or the Hugging Face Hub, with or without
            the prefix of timm's.

    Returns:
        The constants, or None for a dataset that is not in the table.

    Example:
        >>> known_dataset("torch/cifar100").num_classes, known_dataset("hfds/ILSVRC/imagenet-1k").name
        (100, 'imagenet')
        >>> known_dataset("folder") is None
        True
    """
    last = name.rsplit("/", 1)[-1].lower().replace("-", "_")
    return KNOWN_DATASETS.get(_OTHER_NAMES.get(last, last))


def dataset_title(name: str) -> str:
    """Say what a dataset is called, to those who do not know our names.

    Example:
        >>> dataset_title("torch/cifar100"), dataset_title("folder"), dataset_title("hfds/owner/flowers")
        ('CIFAR-100', 'a folder of images', 'hfds/owner/flowers')
    """
    known = known_dataset(name)
    return known.title if known else "a folder of images" if name in FOLDERS else name


def canonical_name(name: str) -> str:
    """Return our name for a dataset, or the one given for a dataset that is not in the table."""
    known = known_dataset(name)
    return known.name if known else name


def whole_validation(name: str, split: str, count: int | None) -> KnownDataset | None:
    """Say of which known dataset some images are all that it is validated on.

    Args:
        name: of the dataset they are from, as for :func:`known_dataset`.
        split: of it, as :func:`~cutmix_zoo.data.settings.validation_name` says it.
        count: how many they are.

    Returns:
        ``None`` for a part of them, or images held out of the training split.

    Example:
        >>> whole_validation("torch/cifar100", "validation", 10_000).title
        'CIFAR-100'
        >>> whole_validation("torch/cifar100", "0.2 of train", 10_000) is None
        True
    """
    known = known_dataset(name)
    if known is None or split not in _VALIDATION or count is None or count != known.validation_images:
        return None
    return known
