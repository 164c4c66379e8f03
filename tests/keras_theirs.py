"""Run as a script with a folder: models that Keras users build, as NAME.keras, with NAME.npz (scans and answers)."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

MANY = 15


def _named(layers: Any, first: dict[str, str]) -> dict[str, Callable[[Any], Any]]:
    """By name, what stands between a picture and the answer in the cases that once went wrong."""

    def chain(*each: Any) -> Callable[[Any], Any]:
        def through(x: Any) -> Any:
            for layer in each:
                x = layer(x)
            return x

        return through

    def flat(*each: Any) -> Callable[[Any], Any]:
        return chain(layers.Conv2D(3, 3), layers.MaxPooling2D(4), layers.Flatten(), *each, layers.Dense(3))

    return {
        "conv with leaky_relu": chain(layers.Conv2D(4, 3, activation="leaky_relu"), layers.Flatten(), layers.Dense(2)),
        "conv with elu": chain(layers.Conv2D(4, 3, activation="elu"), layers.Conv2D(2, 3, activation="gelu")),
        "flatten, layer norm": flat(layers.LayerNormalization(epsilon=1e-5)),
        "flatten, group norm": flat(layers.GroupNormalization(3, epsilon=1e-5)),
        "flatten, PReLU": flat(layers.PReLU(alpha_initializer="random_normal")),
        "flatten, softmax": flat(layers.Softmax()),
        "flatten, flat again": flat(layers.Reshape((-1,))),
        "softmax of a picture": chain(layers.Conv2D(4, 3), layers.Activation("softmax")),
        "softmax first": chain(layers.Conv2D(4, 3, **first), layers.Activation("softmax")),
        "softmax first, own": chain(layers.Conv2D(4, 3, activation="softmax", **first)),
        "turned about": chain(layers.Reshape((1, 16, 16)), layers.Conv2D(2, 1)),
        "slopes of rows": chain(layers.Conv2D(14, 3), layers.PReLU("random_normal", shared_axes=[2, 3])),
    }


def _drawn(layers: Any, seed: int) -> Callable[[Any], Any]:
    random = np.random.default_rng(seed)
    kinds = ["relu", "elu", "selu", "gelu", "silu", "mish", "hard_silu", "tanh", "softmax", "leaky_relu", "sigmoid"]

    def one() -> str:
        return str(random.choice(kinds))

    def through(x: Any) -> Any:
        for _ in range(int(random.integers(2, 5))):
            y = layers.Conv2D(2 * int(random.integers(1, 4)), 3, padding="same", activation=one())(x)
            x = layers.Add()([x, y]) if x.shape == y.shape else y
            x = [
                layers.BatchNormalization(),
                layers.LayerNormalization(epsilon=1e-5),
                layers.Activation(one()),
                layers.MaxPooling2D(2),
                layers.PReLU("random_normal", shared_axes=[1, 2]),
                layers.Softmax(),
                layers.LeakyReLU(),
            ][int(random.integers(7))](x)
        x = layers.Flatten()(x) if random.random() < 0.7 else layers.GlobalAveragePooling2D()(x)
        for _ in range(2):
            x = [
                layers.LayerNormalization(epsilon=1e-5),
                layers.PReLU("random_normal"),
                layers.Softmax(),
                layers.Activation(one()),
                layers.BatchNormalization(),
                layers.Dropout(0.5),
            ][int(random.integers(6))](x)
        return layers.Dense(3, activation=one())(x)

    return through


def main(root: str) -> None:
    """Writes all models."""
    import keras

    keras.utils.set_random_seed(0)
    layers, random = keras.layers, np.random.default_rng(0)
    cases = _named(layers, {"data_format": "channels_first"})
    cases |= {f"drawn {seed}": _drawn(layers, seed) for seed in range(MANY)}
    for name, through in cases.items():
        given = keras.Input((1, 16, 16) if " first" in name else (16, 16, 1))
        net = keras.Model(given, through(given))
        for layer in net.layers:  # numbers that differ from feature to feature
            layer.set_weights(
                [np.abs(random.normal(0.5, 0.4, w.shape)).astype(np.float32) for w in layer.get_weights()]
            )
        scans = random.normal(size=(2, *given.shape[1:])).astype(np.float32)
        answer = keras.ops.convert_to_numpy(net(scans, training=False))
        net.save(os.path.join(root, f"{name}.keras"))
        np.savez(os.path.join(root, f"{name}.npz"), scans=scans, answer=answer)


if __name__ == "__main__":
    main(sys.argv[1])
