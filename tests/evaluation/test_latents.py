"""Windows of latents: their statistics, and the nearest one of the training songs."""

import numpy as np
import pytest
import torch

from acestep.evaluation.latents import WINDOW, nearest_similarities, window_statistics


class Songs:
    """Rows with latents alone."""

    def __init__(self, latents):
        self.latents = latents

    def __len__(self):
        return len(self.latents)

    def tensor(self, index, name):
        assert name == "latents"
        return self.latents[index]


def song(frames: int, seed: int) -> torch.Tensor:
    """Latents whose channels differ in mean and spread, as those of music do."""
    random = torch.Generator().manual_seed(seed)
    return torch.randn(frames, 3, generator=random) * torch.tensor([1.0, 5.0, 0.2]) + torch.tensor([10.0, 0.0, -3.0])


def test_statistics_are_mean_and_standard_deviation_of_each_second():
    latents = song(80, 0)
    found = window_statistics(latents)
    assert found.shape == (3, 6)
    second = latents[25:50].double().numpy()
    assert np.allclose(found[1], np.concatenate([second.mean(axis=0), second.std(axis=0)]))
    assert window_statistics(song(24, 0)).shape == (0, 6)


def test_the_nearest_window_is_found_at_any_moment_as_by_trying_all():
    training, pieces = [song(130, 1), song(40, 2), song(97, 3)], [song(105, 4), song(20, 5), song(50, 6)]
    found = nearest_similarities(pieces, Songs(training), torch.device("cpu"))
    frames = torch.cat(training)
    mean, std = frames.mean(0), frames.std(0, correction=0)
    moments = [part[at : at + WINDOW] for part in training for at in range(len(part) - WINDOW + 1)]
    candidates = torch.stack([((part - mean) / std).flatten() for part in moments])
    for piece, similarities in zip(pieces, found, strict=True):
        expected = [
            torch.cosine_similarity(((piece[at : at + WINDOW] - mean) / std).flatten()[None], candidates).max().item()
            for at in range(0, len(piece) - WINDOW + 1, WINDOW)
        ]
        assert similarities == pytest.approx(expected, abs=1e-5)
    assert [len(similarities) for similarities in found] == [2, 0, 1]


def test_a_copied_part_has_similarity_one_and_other_music_far_less():
    training = [song(200, 1), song(200, 2)]
    copied = song(150, 3)
    copied[50:100] = training[1][37:87]
    ((first, second, third),) = nearest_similarities([copied], Songs(training), torch.device("cpu"))
    assert second == pytest.approx(1, abs=1e-5)
    assert max(first, third) < 0.6
