"""The smallest spec of every method. The generic tests run over this table; a method without a row fails them."""

SETTINGS: dict[str, dict[str, dict]] = {
    "optimizer": {
        "sgd": {"optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4}},
        "adamw": {"optimizer": {"name": "adamw", "lr": 0.01}},
        "lamb": {"optimizer": {"name": "lamb", "lr": 0.02}},
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
    "exchange": {"all_reduce": {"exchange": {"name": "all_reduce"}}},
    "batch.controller": {"constant": {"batch": {"global_size": 48, "controller": {"name": "constant"}}}},
    "data.source": {
        "recipe": {"data": {"source": {"name": "recipe"}}},
        "hugging_face": {
            "recipe": {"target": "tiny.py:Digits"},
            "data": {"source": {"name": "hugging_face", "path": "json", "data_files": {"train": "digits.jsonl"}}},
        },
    },
}
