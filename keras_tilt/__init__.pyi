# The public names of keras_tilt, and where each is defined.

from . import (
    data as data,
    masking as masking,
    networks as networks,
    partition as partition,
    plotting as plotting,
    reference as reference,
    sampling as sampling,
    serving as serving,
    training as training,
    units as units,
)
from .data import batches as batches, sources as sources
from .networks import (
    ImageGenerator as ImageGenerator,
    PrincipalGenerator as PrincipalGenerator,
    alexnet as alexnet,
    convnet as convnet,
    lenet as lenet,
    pooled_convnet as pooled_convnet,
    receptive_field as receptive_field,
    small_alexnet as small_alexnet,
    zf_fast as zf_fast,
)
from .partition import (
    LogPartition as LogPartition,
    expectation as expectation,
    generative_log_prob as generative_log_prob,
    kish_ess as kish_ess,
    log_partition as log_partition,
    normalized_weights as normalized_weights,
)
from .reference import (
    Spectrum as Spectrum,
    Wavelets as Wavelets,
    box as box,
    fit_components as fit_components,
    fit_latent as fit_latent,
    fit_spectrum as fit_spectrum,
    fit_wavelets as fit_wavelets,
    frequency_bands as frequency_bands,
    latent as latent,
    outliers as outliers,
    spectral_noise as spectral_noise,
    squash as squash,
    sum_of as sum_of,
    wavelet_noise as wavelet_noise,
    white_noise as white_noise,
)
from .sampling import (
    PAPER_LENET as PAPER_LENET,
    Diagnostics as Diagnostics,
    Samples as Samples,
    UnitSamples as UnitSamples,
    sample as sample,
    sample_until_converged as sample_until_converged,
    scale_for_signal as scale_for_signal,
)
from .serving import servable as servable
from .tilt import Tilt as Tilt
from .training import (
    Calibration as Calibration,
    CaffeSGD as CaffeSGD,
    Continued as Continued,
    GenerativeClassifier as GenerativeClassifier,
    InverseDecay as InverseDecay,
    Phase as Phase,
    WarmUp as WarmUp,
    center_logits as center_logits,
    discriminative_loss as discriminative_loss,
    evaluation as evaluation,
    generative_loss as generative_loss,
    mixed_loss as mixed_loss,
    recenter as recenter,
    train as train,
)
from .units import (
    FeatureStatistics as FeatureStatistics,
    RandomViews as RandomViews,
    Unit as Unit,
    fit_feature_statistics as fit_feature_statistics,
    unit as unit,
)

__version__: str
