"""Documents in a prepared TFDS directory: texts (lm1b, C4), pictures with captions (COCO) or labels (ImageNet).

Which feature is the text is found out: ``text`` or ``captions``, else the only text, else the name of a label;
``options={"text": "caption_reference_description"}`` names another one, ``"objects/label"`` one inside others.
``options={"question": "question", "answer": "answers"}`` takes questions with answers. A record with five captions, or
with five answers, is five documents.

``options={"pairs": 5, "size": (192, 192)}`` makes documents of five pictures with their texts each, as Gato's rows have
them (see `image_text`): of neighbouring records, because builders shuffle them when they write them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gato.data_pipelines.dataset import GivenLeaf, identity_of
from gato.data_pipelines.episode import Episode
from gato.data_pipelines.errors import EmptyDocument, SourceError
from gato.data_pipelines.readers.image_text import SIZE, fitted
from gato.data_pipelines.readers.pairs import Pairs, Sample
from gato.data_pipelines.readers.rlds import is_text, load_features, prepared_folder, skip_images
from gato.data_pipelines.readers.text import decoded
from gato.data_pipelines.readers.tfds_records import Records
from gato.data_pipelines.store import first_line
from gato.tokenizers.errors import GatoError, suggest
from gato.tokenizers.spec import LeafSpec

_USUAL = ("text", "captions", "caption")


class TfdsDocumentsReader:
    """See the module.

    Args:
      path: of the directory with ``features.json``, or one above it. leaves: must be empty.
      split: "": the only one, or ``train``. text: feature with the text; "": found out.
      question, answer: features with them, in place of a text.
      size: of the pictures, (height, width). pairs: of pictures and texts in one document.
    """

    def __init__(
        self,
        path: Path,
        leaves: Mapping[str, GivenLeaf],
        split: str = "",
        text: str = "",
        question: str = "",
        answer: str = "",
        size: tuple[int, int] = SIZE,
        pairs: int = 1,
    ) -> None:
        if leaves:
            raise SourceError(f"{path}: documents have fixed leaves; leaves and values cannot be given")
        folder = prepared_folder(path)
        self._records = Records(folder, split)
        self.unreadable = self._records.unreadable
        self._features = load_features(folder)
        self._size = tuple(size)
        self.name, self.metadata = self._records.name, {"dataset": self._records.name}
        if bool(question) != bool(answer) or (question and text):
            raise SourceError(f"{folder}: options: give text, or both question and answer")
        chosen = {"question": question, "answer": answer} if question else {"text": text or self._find_text(folder)}
        # Leaf -> (path of its feature, what names its labels).
        self._texts = {
            leaf: (name.split("/"), getattr(self._feature(folder, name), "int2str", None))
            for leaf, name in chosen.items()
        }
        self._image = next((key for key, value in self._features.items() if type(value).__name__ == "Image"), None)
        if pairs != 1 and not self._image:
            raise SourceError(f"{folder}: option pairs is for pictures with text, and no feature is a picture")
        self._pairs = Pairs(folder, np.arange(len(self._records)), pairs)
        images = {"image": LeafSpec("image", (*self._size, 3))} if self._image else {}
        self.spec = self._pairs.spec({**images, **dict.fromkeys(chosen, LeafSpec("text"))})
        self.jpeg = tuple(name for name, leaf in self.spec.observations.items() if leaf.modality == "image")
        self.identity = identity_of([*self._records.files, folder / "features.json"], split, chosen, self._size, pairs)

    def __len__(self) -> int:
        return len(self._pairs)

    def where(self, index: int, number: int = 0) -> str:
        return self._records.where(self._pairs.members(index)[0])

    def read(self, index: int) -> Iterable[Episode | GatoError]:
        return self._pairs.documents(index, self._samples(index))

    def _samples(self, index: int) -> Iterator[Sample | GatoError]:
        for member in self._pairs.members(index):
            try:
                yield from self._sample(member)
            except SourceError as error:
                yield error

    def _sample(self, member: int) -> Iterator[Sample | GatoError]:
        """The picture of a record with its texts, and an `EmptyDocument` for each text that is empty."""
        where, data = self._records.where(member), self._records.read(member)
        try:
            record = self._features.deserialize_example_np(data, decoders=skip_images(self._features))
            found = {
                leaf: list(_strings(_inside(record, path), label, where)) or [""]
                for leaf, (path, label) in self._texts.items()
            }
        except SourceError:
            raise
        except Exception as error:  # protobuf, zlib and tfds raise many kinds
            raise SourceError(f"{where}: does not match features.json: {first_line(error)}") from error
        count = max(map(len, found.values()))
        for leaf, texts in found.items():
            if len(texts) == 1:
                found[leaf] = texts * count  # one question with several answers
            elif len(texts) != count:
                raise SourceError(f"{where}: {len(texts)} of {'/'.join(self._texts[leaf][0])}, but {count} beside them")
        said = [dict(zip(found, words, strict=True)) for words in zip(*found.values(), strict=True)]
        good = [words for words in said if all(words.values())]
        yield from [EmptyDocument(f"{where}: an empty text")] * (len(said) - len(good))
        if good:
            yield {"image": fitted(record[self._image], self._size, where)} if self._image else {}, good

    def _feature(self, folder: Path, name: str) -> Any:
        """The feature of this name. Raises SourceError with a suggestion."""
        feature = self._features
        for key in name.split("/"):
            feature = feature.feature if type(feature).__name__ == "Sequence" else feature
            if not hasattr(feature, "keys") or key not in feature:
                known = feature if hasattr(feature, "keys") else ()
                raise SourceError(f"{folder}: no feature {name!r}; {suggest(key, known)}")
            feature = feature[key]
        return feature.feature if type(feature).__name__ == "Sequence" else feature

    def _find_text(self, folder: Path) -> str:
        for name in _USUAL:
            if name in self._features:
                return name
        texts = [key for key, value in self._features.items() if is_text(value) and key not in ("file_name", "url")]
        labels = [key for key, value in self._features.items() if hasattr(value, "int2str")]
        if len(texts) == 1 or (labels and not texts):
            return (texts or labels)[0]
        raise SourceError(
            f"{folder}: which feature is the text? {', '.join(texts) or 'it has none'}; "
            'say it in a DatasetSpec: options={"text": NAME}'
        )


def _strings(value: Any, label: Any, where: str) -> Iterator[str]:
    """The texts in a value of a feature; ``label`` turns numbers of classes into their names."""
    if isinstance(value, Mapping):  # e.g. captions: {"id": [...], "text": [...]}
        yield from _strings(value["text"], label, where)
    elif isinstance(value, list) or (isinstance(value, np.ndarray) and value.ndim):
        for entry in value:
            yield from _strings(entry, label, where)
    elif label is not None:
        yield label(int(value)) if value >= 0 else ""  # -1 where there is none, e.g. in a test split
    else:
        yield value if isinstance(value, str) else decoded(bytes(value), where)


def _inside(value: Any, keys: list[str]) -> Any:
    """The value at a path; lists on the way are gone through."""
    if not keys:
        return value
    if isinstance(value, Mapping):
        return _inside(value[keys[0]], keys[1:])
    return [_inside(entry, keys) for entry in value]
