"""The smallest spec of every method. The generic tests run over this table; a method without a row fails them."""

MEASURED = {
    "statistic": {"every": 1},
    "guards": {"min_measurements": 1, "cooldown_samples": 0, "confidence": 0, "max_size": 96},
}
"""Decides after the first measured step."""
CONVOLUTIONAL = {"recipe": {"target": "convolutional.py:Images"}}
"""Has what changes of the model change."""
MICRO_BATCHES = {"batch": {"global_size": 48, "micro_size": 12}}
SETTINGS: dict[str, dict[str, dict]] = {
    "optimizer": {
        "sgd": {"optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4}},
        "adamw": {"optimizer": {"name": "adamw", "lr": 0.01}},
        "lamb": {"optimizer": {"name": "lamb", "lr": 0.02}},
        "lars": {"optimizer": {"name": "lars", "lr": 0.2, "weight_decay": 1e-4, "trust_coefficient": 0.1}},
        "lans": {"optimizer": {"name": "lans", "lr": 0.02}},
        "novograd": {"optimizer": {"name": "novograd", "lr": 0.02, "weight_decay": 1e-3}},
        "lawn": {"optimizer": {"name": "lawn", "lr": 0.01, "free_steps": 1}},
        "swats": {"optimizer": {"name": "swats", "lr": 0.01, "switch_tolerance": 0.2}},
        "adagrad_norm": {"optimizer": {"name": "adagrad_norm", "lr": 0.5, "weight_decay": 1e-3}},
        "momo": {"optimizer": {"name": "momo", "lr": 0.1}},
        "adahessian": {"optimizer": {"name": "adahessian", "lr": 0.05, "eps": 0.01}},
        "adafactor": {"optimizer": {"name": "adafactor", "lr": 0.05}},
        "came": {"optimizer": {"name": "came", "lr": 0.001}},
        "radam": {"optimizer": {"name": "radam", "lr": 0.1}},
        "nadam": {"optimizer": {"name": "nadam", "lr": 0.01}},
        "adagrad": {"optimizer": {"name": "adagrad", "lr": 0.05}},
        "lion": {"optimizer": {"name": "lion", "lr": 0.003, "weight_decay": 0.1}},
        "adabelief": {"optimizer": {"name": "adabelief", "lr": 0.01, "weight_decay": 0.1}},
        "adopt": {"optimizer": {"name": "adopt", "lr": 0.01}},
        "adabound": {"optimizer": {"name": "adabound", "lr": 0.01}},
        "mars": {"optimizer": {"name": "mars", "lr": 0.01}},
        "dadapt_adam": {"optimizer": {"name": "dadapt_adam", "d0": 0.001}},
        "prodigy": {"optimizer": {"name": "prodigy", "d0": 0.001}},
        "muon": {"optimizer": {"name": "muon", "adamw_lr_multiplier": 0.5}},
    },
    "schedule": {
        "constant": {"schedule": {"name": "constant"}},
        "polynomial": {"schedule": {"name": "polynomial", "warmup": {"steps": 2}}},
        "cosine": {"schedule": {"name": "cosine", "warmup": {"fraction": 0.2}}},
    },
    "engine": {
        "ddp": {"engine": {"name": "ddp"}},
        "fsdp2": {"engine": {"name": "fsdp2"}},
        "deepspeed": {"engine": {"name": "deepspeed"}},
        "accelerate": {"engine": {"name": "accelerate", "config": {"distributed_type": "FSDP"}}},
    },
    "exchange": {
        "all_reduce": {"exchange": {"name": "all_reduce"}},
        "coded": {"exchange": {"name": "coded", "scheme": "fractional", "stragglers": 0}},
        # In step: what is not repeats only by an order, see tests/served/test_asynchronous.py.
        "asynchronous": {"exchange": {"name": "asynchronous", "pushes_per_update": 2, "max_lead": 0, "overlap": False}},
        "delayed": {"exchange": {"name": "delayed", "steps": 2}},
    },
    "exchange.compensation": {
        name: {"exchange": {"name": "delayed", "steps": 2, "compensation": {"name": name, **arguments}}}
        for name, arguments in {
            "staleness_aware": {},
            "dc_asgd": {"variance": "adaptive", "strength": 0.1},
            "gap_aware": {},
            "dana_zero": {},
            "weight_prediction": {},
        }.items()
    },
    "modulators": {
        name: {**more, "modulators": [{"name": name, **arguments}]}
        for name, arguments, more in (
            ("ghost_norm", {"size": 7}, CONVOLUTIONAL),
            ("sync_batch_norm", {}, CONVOLUTIONAL),
            ("weight_standardization", {}, CONVOLUTIONAL),
            ("batch_channel_norm", {"groups": 4, "estimate": 0.1}, CONVOLUTIONAL),
            ("gradient_noise", {}, {}),
            ("sam", {"m": 12}, {}),
            (
                "saved_activations",
                {"min_elements": 64, "group": 64, "stochastic": True},
                {"recipe": {"target": "tiny.py:Digits", "args": {"hidden": 64}}},
            ),
            ("disadv", {"epsilon": 0.05}, {"recipe": {"target": "tiny.py:Digits", "args": {"batch_norm": True}}}),
            ("conadv", {"epsilon": 0.05, "statistics": "shared", "staleness": 2}, {}),
            ("adaptive_braking", {"scope": "model"}, {}),
            ("agvm", {"every": 1, "decay": 0.5}, MICRO_BATCHES),
            ("module_noise", {"every": 1, "half_life_steps": 3}, MICRO_BATCHES),
            ("vrgd", {}, MICRO_BATCHES),
        )
    },
    "batch.controller": {
        name: {**more, "batch": {"global_size": 48, "micro_size": 12, "controller": {"name": name, **arguments}}}
        for name, arguments, more in (
            ("constant", {}, {}),
            ("schedule", {"sizes": "96:60 200:72", "coupling": "linear"}, {}),
            ("norm_test", {"eta": 0.5, **MEASURED}, {}),
            ("inner_product_test", {"theta": 0.5, "nu": 1.0, **MEASURED}, {}),
            ("noise_scale", {"coupling": "gain", **MEASURED}, {}),
            ("cosine_target", {"cosine": 0.7, **MEASURED}, {}),
            ("adascale", {"reference_batch": 16}, {}),
            # What it decides depends on the time that steps take; with the defaults it only measures.
            ("goodput", {}, {}),
            ("seesaw", {"factor": 1.2}, {"schedule": {"name": "cosine"}}),
            # Branches before the second and the fourth step, after both of which the batch doubles.
            (
                "cbs_probe",
                {"after_samples": 48, "every_samples": 150, "branch_samples": 768, "max_size": 192, "tolerance": 10.0},
                {},
            ),
        )
    },
    "data.source": {
        "recipe": {"data": {"source": {"name": "recipe"}}},
        "hugging_face": {
            "recipe": {"target": "tiny.py:Digits"},
            "data": {"source": {"name": "hugging_face", "path": "json", "data_files": {"train": "digits.jsonl"}}},
        },
    },
}
