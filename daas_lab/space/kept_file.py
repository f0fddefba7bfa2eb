"""The file of a network that was cut (`daas-lab cut`): what its header says, and whether it is whole.

It is a safetensors file. Its metadata are texts: `network`, what the weights need to be a network again and where they
come from (`Cut`, as JSON); `source`, the configuration and versions of that search; `digest`, over `network` and the
tensors. The same cut of the same search has the same digest everywhere. Nothing here needs torch.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from daas_lab.errors import LabError, refuse
from daas_lab.fields import check_fields, number
from daas_lab.own_files import expanded
from daas_lab.space.genotype import Genotype

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A super-network as the derived network that it is after the cut: its shape, and what was cut how."""

    genotype: Genotype  # every node with an input is in `concat`, as in the super-network
    channels: int = number(at_least=1)
    layers: int = number(at_least=1)
    classes: int = number(at_least=1)
    image_channels: int = number(at_least=1)
    side: int = number(at_least=1)  # of the images that it was trained on
    partial_channels: int = number(at_least=1)
    affine: bool  # the super-network's batch-norms had gain and bias; else the network's begin at 1 and 0
    own_operations: dict[str, str] = field(default_factory=dict)  # name → digest of the file, of one's own in the cell
    dataset: str
    run: str  # hash of the search
    epoch: int = number(at_least=1)  # of the search
    budget: str
    select: str
    edge_weight: str
    batch_norm: str

    def __post_init__(self):
        check_fields(self)

    def to_json(self) -> dict:
        """The JSON document of the header."""
        return {"format": FORMAT} | asdict(self) | {"genotype": self.genotype.to_json()}

    @classmethod
    def from_json(cls, document: Mapping) -> "Cut":
        """Read what `to_json` made."""
        values = dict(document)
        if values.pop("format") != FORMAT:
            raise refuse("format", document["format"], str(FORMAT))
        return cls(**values | {"genotype": Genotype.from_json(values["genotype"])})


def sealed(tensors: bytes, cut: Cut, source: Mapping) -> bytes:
    """The file of a cut, from its weights as a safetensors file: with a header that says what they are."""
    header, content = _parts(tensors)
    header["__metadata__"] = metadata = {"network": json.dumps(cut.to_json()), "source": json.dumps(source)}
    metadata["digest"] = _digest(header, content)
    text = json.dumps(header, sort_keys=True).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content


def read_cut(path: str | Path, digest: str = "") -> tuple[Cut, str, bytes]:
    """What the file is, its digest, and its content. Raises `LabError` under the name `weights` for a file that is
    missing, of something else, damaged, or, with a `digest`, another one than was meant."""
    try:
        content = expanded(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: what can be no path
        why = getattr(error, "strerror", error)
        raise refuse("weights", str(path), f"a file that can be read, written by daas-lab cut ({why})") from None
    try:
        header, tensors = _parts(content)
        metadata = header["__metadata__"]
        found, document = metadata["digest"], json.loads(metadata["network"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise refuse("weights", str(path), "a file that daas-lab cut wrote") from None
    if found != _digest(header, tensors):
        raise LabError(f"damaged file {path}: its content is not what daas-lab cut wrote")
    if digest and found != digest:
        raise LabError(f"weights = {str(path)!r}: the file has changed since the configuration was made")
    try:
        return Cut.from_json(document), found, content
    except LabError as error:
        raise LabError(f"weights = {str(path)!r}: {error}") from error
    except (ValueError, KeyError, TypeError):
        raise refuse("weights", str(path), "a file that this version of daas_lab can read") from None


def source_of(content: bytes) -> dict:
    """The `source` of a file that `read_cut` has read."""
    return json.loads(_parts(content)[0]["__metadata__"]["source"])


def _parts(content: bytes) -> tuple[dict, bytes]:
    """The JSON header of a safetensors file, and the tensors behind it."""
    end = 8 + int.from_bytes(content[:8], "little")
    if not 8 < end <= len(content):
        raise ValueError("no safetensors file")
    return dict(json.loads(content[8:end])), content[end:]


def _digest(header: Mapping, tensors: bytes) -> str:
    """Over names, shapes and content of the tensors, and over the network's part of the metadata."""
    known = dict(header) | {"__metadata__": header["__metadata__"]["network"]}
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode() + tensors).hexdigest()
