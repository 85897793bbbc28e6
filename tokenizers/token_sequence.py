"""What an episode or a document becomes: parallel arrays, one entry a token, and the pixels of its patches."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

NO_POSITION = -1
ACTION_POSITION = -2


@dataclasses.dataclass(frozen=True)
class TokenSequence:
    """n tokens of T timesteps with n_p image patches.

    Attributes:
      ids: int32 [n]; the padding id where the token is an image patch.
      loss_weight: float32 [n], m(b, l) of Gato section 2.3: how strongly this token is learned as a target.
      local_position: int16 [n]: place in its timestep's observation, NO_POSITION, or ACTION_POSITION, which all action
        tokens share.
      timestep: int32 [n], 0..T-1.
      kinds: int8 [n], index into `layout.KINDS`.
      patch_index: int32 [n], index into `patches`, -1 where the token is no patch.
      patches: uint8 [n_p, 16, 16, 3] in the order of their tokens.
      patch_intervals: int16 [n_p, 4]: row start, row stop, column start, column stop, in 128ths of the image's sides.
      timestep_starts: int32 [T + 1]: timestep t is tokens ``timestep_starts[t]:timestep_starts[t + 1]``.
    """

    ids: np.ndarray
    loss_weight: np.ndarray
    local_position: np.ndarray
    timestep: np.ndarray
    kinds: np.ndarray
    patch_index: np.ndarray
    patches: np.ndarray
    patch_intervals: np.ndarray
    timestep_starts: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def slice(self, start_step: int, stop_step: int) -> TokenSequence:
        """Timesteps ``start_step:stop_step``, counted from 0 again. Arrays are views where nothing is renumbered."""
        start, stop = int(self.timestep_starts[start_step]), int(self.timestep_starts[stop_step])
        patch_index = self.patch_index[start:stop]
        patches, intervals = self.patches[:0], self.patch_intervals[:0]
        used = patch_index[patch_index >= 0] if len(self.patches) else patch_index[:0]
        if len(used):
            first, last = int(used[0]), int(used[-1])
            patches, intervals = self.patches[first : last + 1], self.patch_intervals[first : last + 1]
            patch_index = np.where(patch_index >= 0, patch_index - np.int32(first), np.int32(-1))
        return TokenSequence(
            ids=self.ids[start:stop],
            loss_weight=self.loss_weight[start:stop],
            local_position=self.local_position[start:stop],
            timestep=self.timestep[start:stop] - np.int32(start_step),
            kinds=self.kinds[start:stop],
            patch_index=patch_index,
            patches=patches,
            patch_intervals=intervals,
            timestep_starts=self.timestep_starts[start_step : stop_step + 1] - np.int32(start),
        )


def concatenate(sequences: Sequence[TokenSequence]) -> TokenSequence:
    """One sequence after the other; timesteps go on counting. At least one sequence."""
    steps = np.cumsum([0, *(len(s.timestep_starts) - 1 for s in sequences)]).astype(np.int32)
    tokens = np.cumsum([0, *(len(s) for s in sequences)]).astype(np.int32)
    patches = np.cumsum([0, *(len(s.patches) for s in sequences)]).astype(np.int32)
    starts = [s.timestep_starts[:-1] + tokens[i] for i, s in enumerate(sequences)]
    return TokenSequence(
        ids=np.concatenate([s.ids for s in sequences]),
        loss_weight=np.concatenate([s.loss_weight for s in sequences]),
        local_position=np.concatenate([s.local_position for s in sequences]),
        timestep=np.concatenate([s.timestep + steps[i] for i, s in enumerate(sequences)]),
        kinds=np.concatenate([s.kinds for s in sequences]),
        patch_index=np.concatenate(
            [np.where(s.patch_index >= 0, s.patch_index + patches[i], np.int32(-1)) for i, s in enumerate(sequences)]
        ),
        patches=np.concatenate([s.patches for s in sequences]),
        patch_intervals=np.concatenate([s.patch_intervals for s in sequences]),
        timestep_starts=np.concatenate([*starts, tokens[-1:]]),
    )
