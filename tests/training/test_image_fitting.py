"""Images for models: what takes none is told what else there is."""

from __future__ import annotations

import pytest
import torch

from sigprune.base.errors import DataError
from sigprune.models.opening import describe, open_model
from sigprune.training.image_fitting import Fitted
from tests.checkpoint.test_checkpoint import LIBRARIES


def test_a_model_that_takes_no_images_is_pruned_by_files() -> None:
    view = describe(open_model("transformers:bert", args=LIBRARIES["transformers:bert"]))
    images = Fitted(torch.zeros(2, 1, 8, 8), view)
    with pytest.raises(DataError, match=r"takes input_ids.* by magnitude with `sigprune prune --by-shard`$"):
        images[slice(1)]
