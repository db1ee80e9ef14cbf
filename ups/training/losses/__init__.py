"""Losses: pure functions with an eps inside every root, and when each of them counts."""

from ups.training.losses.fields import excess, nrmse, relative_l2, spectral, spectral_bands
from ups.training.losses.latent import diversity, inverse_decoding, inverse_encoding, latent_norm
from ups.training.losses.priors import PhysicsPriors
from ups.training.losses.schedule import check_available, term_weight, wanted, weighted

__all__ = [
    "PhysicsPriors",
    "check_available",
    "diversity",
    "excess",
    "inverse_decoding",
    "inverse_encoding",
    "latent_norm",
    "nrmse",
    "relative_l2",
    "spectral",
    "spectral_bands",
    "term_weight",
    "wanted",
    "weighted",
]
