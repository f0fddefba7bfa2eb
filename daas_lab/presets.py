"""The presets of both trainers: functions of the data set's facts that give the fields they set.

`compose.search_config` and `compose.retrain_config` add what all presets share. A preset only sets numbers: the code
that runs is the same.
"""

SEARCH_PRESETS = {
    # Seconds, on any data set: the tests run the real trainer with it.
    "tiny": lambda facts: {
        "side": 8,
        "layers": 3,
        "channels": 4,
        "weight_images": 96,
        "architecture_images": 96,
        "held_out_images": 96,
        "batch_size": 16,
        "epochs": 3,
        "steps": 3,
    },
    # A minute and a half a search: the effect itself, on digits. 40 epochs × 12 steps; learning rate × steps is 36, for
    # with 5.8 to 14 the edges of node 2 were still undecided at the end and the cut cost DA²S 6 to 69 points.
    "quick": lambda facts: {
        "side": min(facts.side, 8),
        "layers": 3,
        "channels": 8,
        "weight_images": 600,
        "architecture_images": 600,
        "held_out_images": 200,
        "batch_size": 32,
        "epochs": 40,
        "steps": 12,
        "arch_learning_rate": 0.075,
    },
    # Minutes, on Fashion-MNIST scaled to 16 × 16. 20 epochs × 50 steps; learning rate × steps is 50, of which α, which
    # rests for three epochs, can use 42.
    "mini": lambda facts: {
        "side": min(facts.side // 4 * 4, 16),
        "layers": 4,
        "channels": 8,
        "weight_images": 3200 if facts.side > 8 else 600,
        "architecture_images": 3200 if facts.side > 8 else 600,
        "held_out_images": 2000 if facts.side > 8 else 200,
        "batch_size": 32,
        "epochs": 20,
        "steps": 50 if facts.side > 8 else 18,
        "arch_learning_rate": 0.05,
    },
    # The paper's own search.
    "full": lambda facts: {
        "side": min((facts.side + 3) // 4 * 4 + 4 * (facts.side == 28), 224),
        "layers": 8,
        "channels": 16,
        "batch_size": 64,
        "epochs": 50,
        "arch_learning_rate": 3e-4,
    },
}

_RETRAIN_IMAGENET = {
    "form": "imagenet",
    "side": 224,
    "layers": 14,
    "channels": 48,
    "batch_size": 1024,
    "micro_batches": 8,  # of 128 images: on one to eight GPUs the same training
    "epochs": 250,
    "learning_rate": 0.5,
    "schedule": "linear",
    "warmup": 5,
    "weight_decay": 3e-5,
    "label_smoothing": 0.1,
    "drop_path": 0.0,
    "cutout": 0,
}

RETRAIN_PRESETS = {
    "tiny": lambda facts: {
        "side": 8,
        "layers": 3,
        "channels": 4,
        "train_images": 96,
        "batch_size": 16,
        "epochs": 2,
        "steps": 3,
    },
    "quick": lambda facts: {
        "side": min(facts.side, 8),
        "layers": 5,
        "channels": 8,
        "train_images": 1_400,
        "batch_size": 50,
        "epochs": 20,
        "cutout": 2,
        "drop_path": 0.1,
    },
    # Ten epochs underfit (with cutout and drop-path a published cell's training accuracy stayed three points below its
    # test accuracy), so neither is used.
    "mini": lambda facts: {
        "side": min(facts.side // 4 * 4, 16),
        "layers": 5,
        "channels": 16,
        "train_images": 10_000 if facts.side > 8 else 1_400,
        "batch_size": 64,
        "epochs": 10,
        "cutout": 0,
        "drop_path": 0.0,
    },
    # The paper's own retraining, on CIFAR-10 and on ImageNet.
    "full": lambda facts: (
        _RETRAIN_IMAGENET
        if facts.side >= 224
        else {"side": 32, "layers": 20, "channels": 36, "batch_size": 96, "epochs": 600, "drop_path": 0.3}
    ),
}
