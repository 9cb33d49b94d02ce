"""A sentence-transformers module that is a `SentenceEncoder`: for what its own modules cannot do.

Named in the `modules.json` of such folders, so it needs embedllm, and `trust_remote_code=True`
because sentence-transformers asks for that before it runs any code but its own.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Final

import torch
from sentence_transformers.models import InputModule
from sentence_transformers.util import load_dir_path
from torch import Tensor

from embedllm.models.encoder import SentenceEncoder

_OF_THE_FOLDER: Final = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
_OF_THE_HUB: Final = ("token", "cache_folder", "revision", "local_files_only")


class PromptModule(InputModule):  # type: ignore[misc]
    """Texts to vectors, prompt and pooling included.

    Args:
        encoder: What computes them.
        folder: Where it comes from; saving copies it.
    """

    def __init__(self, encoder: SentenceEncoder, folder: Path) -> None:
        super().__init__()
        self.encoder = encoder
        self.embedder = encoder.embedder
        self.tokenizer = encoder.tokenizer
        self.max_seq_length = encoder.max_length
        self._folder = folder

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **options: Any) -> PromptModule:
        """Returns the module of an exported folder, or of one on the hub, on the CPU."""
        where = {key: options[key] for key in _OF_THE_HUB if key in options}
        folder = Path(load_dir_path(model_name_or_path, subfolder, **where) or model_name_or_path)
        dtype = (options.get("model_kwargs") or {}).get("dtype")
        name = str(dtype).removeprefix("torch.") if dtype is not None else None
        return cls(SentenceEncoder.load(folder, device="cpu", dtype=name), folder)

    def preprocess(
        self, inputs: list[str], prompt: str | None = None, **_: Any
    ) -> dict[str, Tensor | Any]:
        """Returns the padded ids of finished prompts; `prompt` goes in front of the sentence."""
        self.encoder.max_length = self.max_seq_length
        rows = self.encoder.token_ids([f"{prompt or ''}{text}" for text in inputs])
        ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
        lengths = torch.tensor([len(row) for row in rows])
        mask = torch.arange(ids.shape[1]) < lengths.unsqueeze(1)
        return {"input_ids": ids, "attention_mask": mask.long()}

    def forward(self, features: dict[str, Tensor | Any], **_: Any) -> dict[str, Tensor | Any]:
        """Adds `sentence_embedding`, [B, D]."""
        vectors = self.embedder(features["input_ids"], features["attention_mask"])
        return {**features, "sentence_embedding": vectors}

    def get_embedding_dimension(self) -> int:
        """Returns D."""
        return int(self.encoder.encode([]).shape[1])

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        """Copies the folder's files."""
        for pattern in _OF_THE_FOLDER:
            for path in self._folder.glob(pattern):
                if not (Path(output_path) / path.name).exists():
                    shutil.copy(path, output_path)
