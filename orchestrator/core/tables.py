"""Name -> dotted path of every method, imported when it is first asked for. Adding a method adds one row here."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

OPTIMIZERS = {
    "sgd": "orchestrator.optim.native:build_sgd",
    "adamw": "orchestrator.optim.native:build_adamw",
    "lamb": "orchestrator.optim.lamb:build_lamb",
    "lars": "orchestrator.optim.lars:build_lars",
    "lans": "orchestrator.optim.lans:build_lans",
    "novograd": "orchestrator.optim.novograd:build_novograd",
    "lawn": "orchestrator.optim.lawn:build_lawn",
    "swats": "orchestrator.optim.swats:build_swats",
    "adagrad_norm": "orchestrator.optim.adagrad_norm:build_adagrad_norm",
    "momo": "orchestrator.optim.momo:build_momo",
    "adahessian": "orchestrator.optim.adahessian:build_adahessian",
    "adafactor": "orchestrator.optim.adafactor:build_adafactor",
    "came": "orchestrator.optim.came:build_came",
    "radam": "orchestrator.optim.packages:build_torch",
    "nadam": "orchestrator.optim.packages:build_torch",
    "adagrad": "orchestrator.optim.packages:build_adagrad",
    "lion": "orchestrator.optim.packages:build_elementwise",
    "adabelief": "orchestrator.optim.packages:build_elementwise",
    "adopt": "orchestrator.optim.packages:build_elementwise",
    "adabound": "orchestrator.optim.packages:build_elementwise",
    "mars": "orchestrator.optim.packages:build_mars",
    "dadapt_adam": "orchestrator.optim.packages:build_dadapt_adam",
    "prodigy": "orchestrator.optim.packages:build_prodigy",
    "muon": "orchestrator.optim.packages:build_muon",
}
SCHEDULES = {
    "constant": "orchestrator.optim.schedules:constant",
    "polynomial": "orchestrator.optim.schedules:polynomial",
    "cosine": "orchestrator.optim.schedules:cosine",
}
ENGINES = {
    "ddp": "orchestrator.engines.ddp:build_ddp",
    "fsdp2": "orchestrator.engines.fsdp2:build_fsdp2",
    "deepspeed": "orchestrator.engines.deepspeed:build_deepspeed",
    "accelerate": "orchestrator.engines.accelerate:build_accelerate",
}
EXCHANGES = {
    "all_reduce": "orchestrator.exchange.all_reduce:AllReduceExchange",
    "coded": "orchestrator.exchange.served.exchange:ServedExchange",
    "asynchronous": "orchestrator.exchange.asynchronous.exchange:AsynchronousExchange",
    "delayed": "orchestrator.exchange.delayed:DelayedExchange",
}
COMPENSATIONS = {
    "staleness_aware": "orchestrator.exchange.compensation.staleness_aware:StalenessAwareRate",
    "dc_asgd": "orchestrator.exchange.compensation.dc_asgd:DelayCompensation",
    "gap_aware": "orchestrator.exchange.compensation.gap_aware:GapPenalty",
    "dana_zero": "orchestrator.exchange.compensation.dana_zero:WorkerMomentum",
    "weight_prediction": "orchestrator.exchange.compensation.weight_prediction:Prediction",
}
MODULATORS = {
    "ghost_norm": "orchestrator.modulate.model.ghost_norm:GhostNormalization",
    "sync_batch_norm": "orchestrator.modulate.model.sync_batch_norm:SynchronizedNormalization",
    "weight_standardization": "orchestrator.modulate.model.weight_standardization:StandardizedConvolutions",
    "batch_channel_norm": "orchestrator.modulate.model.batch_channel_norm:BatchChannelNormalization",
    "gradient_noise": "orchestrator.modulate.loss.gradient_noise:NoisyLoss",
    "sam": "orchestrator.modulate.loss.sam:SharpnessAwareLoss",
    "saved_activations": "orchestrator.modulate.loss.saved_activations:SavedInEightBits",
    "disadv": "orchestrator.modulate.loss.adversarial:AdversarialLoss",
    "conadv": "orchestrator.modulate.data.conadv:ConcurrentAdversarialLoss",
    "adaptive_braking": "orchestrator.modulate.gradient.adaptive_braking:Braking",
    "vrgd": "orchestrator.modulate.gradient.vrgd:VarianceReduction",
    "agvm": "orchestrator.modulate.gradient.agvm:VarianceModulation",
    "module_noise": "orchestrator.modulate.gradient.module_noise:ModuleNoiseMeter",
}
CONTROLLERS = {
    "constant": "orchestrator.batching.constant:ConstantController",
    "schedule": "orchestrator.batching.schedule:ScheduleController",
    "norm_test": "orchestrator.batching.norm_test:build_norm_test",
    "inner_product_test": "orchestrator.batching.inner_product_test:build_inner_product_test",
    "noise_scale": "orchestrator.batching.noise_scale:build_noise_scale",
    "cosine_target": "orchestrator.batching.cosine_target:build_cosine_target",
    "adascale": "orchestrator.batching.adascale:AdaScaleController",
    "goodput": "orchestrator.batching.goodput:build_goodput",
    "seesaw": "orchestrator.batching.seesaw:SeesawController",
    "cbs_probe": "orchestrator.batching.cbs_probe:CbsProbeController",
}
SOURCES = {
    "recipe": "orchestrator.data.sources:recipe_datasets",
    "hugging_face": "orchestrator.data.sources:hugging_face_datasets",
}
TABLES = {
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "engine": ENGINES,
    "exchange": EXCHANGES,
    "exchange.compensation": COMPENSATIONS,
    "modulators": MODULATORS,
    "batch.controller": CONTROLLERS,
    "data.source": SOURCES,
}


def load(table: dict[str, str], name: str) -> Callable[..., Any]:
    """Import the object that a table's row names.

    Raises:
        KeyError: where the table has no such name; specs are checked before, so this is an internal error.
    """
    module, _, attribute = table[name].partition(":")
    loaded: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return loaded
