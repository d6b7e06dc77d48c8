"""Embeddings of recordings by CLAP, for Fréchet distances that hear more than latents tell."""

import numpy as np
import torch

from acestep.errors import UserError


class Clap:
    """A `transformers` CLAP model, such as laion/larger_clap_music.

    Args:
        name: folder or Hub id of the model with its feature extractor.
        device: where it computes, in float32.

    Raises:
        UserError: when it cannot be loaded.
    """

    def __init__(self, name: str, device: torch.device):
        from transformers import ClapFeatureExtractor, ClapModel

        try:
            self.extractor = ClapFeatureExtractor.from_pretrained(name)
            self.model = ClapModel.from_pretrained(name, dtype=torch.float32).to(device).eval()
        except (OSError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"--clap {name}: not a CLAP model that transformers can load ({reason}).") from error
        self.device = device

    @torch.no_grad()
    def __call__(self, audio: torch.Tensor, sample_rate: int) -> np.ndarray:
        """Embeddings of unit length of each whole ten seconds, what the model hears at once; of all if it is shorter.

        Args:
            audio: `[channels, samples]`; the channels' mean is heard.

        Returns:
            `[count, dimensions]` float64.
        """
        from torchaudio.functional import resample

        mono = resample(audio.float().mean(dim=0), sample_rate, self.extractor.sampling_rate)
        length = self.extractor.nb_max_samples
        pieces = [piece.numpy() for piece in mono.split(length) if len(piece) == length] or [mono.numpy()]
        found = []
        for piece in pieces:
            heard = self.extractor(piece, sampling_rate=self.extractor.sampling_rate, return_tensors="pt")
            # The extractor of fusing models calls some piece longer than it is, where none is.
            longer = torch.zeros_like(heard["is_longer"])
            features = self.model.get_audio_features(heard["input_features"].to(self.device), longer.to(self.device))
            found.append(features.pooler_output[0])
        return torch.stack(found).double().cpu().numpy()
