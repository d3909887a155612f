"""A vision transformer of three classes, of Keras's layers and two of its own.

Source: Dosovitskiy et al., "An image is worth 16 x 16 words", 2021.
"""

import keras
from keras import layers

SHAPE, PATCH, WIDTH, CLASSES = (16, 16, 3), 4, 12, 3
TOKENS = 1 + (SHAPE[0] // PATCH) * (SHAPE[1] // PATCH)


@keras.saving.register_keras_serializable("tests")
class ClassToken(layers.Layer):
    """Adds a token in front, the same for all images."""

    def build(self, shape):
        self.token = self.add_weight(shape=(1, 1, shape[-1]), initializer="normal")

    def call(self, tokens):
        first = keras.ops.repeat(self.token, keras.ops.shape(tokens)[0], axis=0)
        return keras.ops.concatenate([first, tokens], axis=1)


@keras.saving.register_keras_serializable("tests")
class Places(layers.Layer):
    """Adds what tells a token where it is."""

    def build(self, shape):
        self.places = self.add_weight(shape=shape[1:], initializer="normal")

    def call(self, tokens):
        return tokens + self.places


def block(x, name, return_attention_scores=False):
    attention = layers.MultiHeadAttention(2, WIDTH // 2, name=f"{name}_attention")
    y = layers.LayerNormalization(name=f"{name}_norm1")(x)
    y = attention(y, y, return_attention_scores=return_attention_scores)
    x = layers.Add(name=f"{name}_middle")([x, y[0] if return_attention_scores else y])
    y = layers.LayerNormalization(name=f"{name}_norm2")(x)
    y = layers.Dense(2 * WIDTH, activation="gelu", name=f"{name}_mlp")(y)
    return layers.Add(name=name)([x, layers.Dense(WIDTH, name=f"{name}_out")(y)])


def small_transformer(seed=0, return_attention_scores=False):
    """Patches, a class token, block1 and block2, the logits of the class token."""
    keras.utils.set_random_seed(seed)
    images = keras.Input(SHAPE, name="images")
    x = layers.Rescaling(1 / 128, -1)(images)
    x = layers.Conv2D(WIDTH, PATCH, PATCH, name="patches")(x)
    x = layers.Reshape((-1, WIDTH), name="tokens")(x)
    x = Places(name="places")(ClassToken(name="class_token")(x))
    for name in ("block1", "block2"):
        x = block(x, name, return_attention_scores)
    x = layers.LayerNormalization(name="norm")(x)
    return keras.Model(images, layers.Dense(CLASSES, name="classes")(x[:, 0]))
