"""A segmenter is fine-tuned by segments, epoch by epoch; linear SVMs may follow."""

__all__ = ["Recipe"]

import pathlib
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from tqdm import auto as tqdm

from keras_tilt import storage
from keras_tilt.cli.jobs.scenes.proposing import Reader
from keras_tilt.cli.named.networks import load_model, network
from keras_tilt.masking import examples, svm
from keras_tilt.masking.backbones import backbone
from keras_tilt.masking.scenes import Scenes
from keras_tilt.masking.segmenter import Segmenter


class Recipe(NamedTuple):
    """What a segmenter is, and how it is fine-tuned."""

    design: str
    size: tuple[int, int]  # height and width of the network's images, pixels
    hidden: int  # width of a pathway
    train_network: bool  # or only the weights above the map
    epochs: int
    learning_rate: float  # Adam's, cosine to 0
    images: int  # in a batch
    segments: int  # of an image in a batch
    none_up_to: float  # IoU or purity below which a segment is none
    seed: int

    def backbone(self, name: str, layer: str, num_classes: int) -> keras.Model:
        """Return a network up to a layer, for images of the size.

        Args:
            name: of a network to be trained, or of a .keras file.
            layer: whose map is masked.
            num_classes: of a new network.
        """
        if name.endswith(".keras"):
            whole = load_model(pathlib.Path(name))
        else:
            whole = network(name, (*self.size, 3), num_classes, self.seed)
        return backbone(whole, layer, self.size)

    def loaded(self, path: pathlib.Path | None, scenes: Scenes) -> Segmenter | None:
        """Return the segmenter that another run has fine-tuned, if one is named.

        Raises:
            ValueError: if it is of another design, or of other classes or images.
        """
        if path is None:
            return None
        segmenter = load_model(path)
        num_classes = len(scenes.class_names)
        expected: list[object] = [Segmenter, self.design, num_classes, self.size]
        expected += [scenes.background, False]
        found: list[object] = [type(segmenter)]
        if isinstance(segmenter, Segmenter):
            found += [segmenter.design, segmenter.num_classes]
            found += [segmenter.cells.image_shape, segmenter.background]
            found += [segmenter.margins]
        if found != expected:
            raise ValueError(
                f"Expected --fine-tuned, a segmenter of design {self.design} for "
                f"{num_classes} classes and images of {self.size}, of the background "
                f"{scenes.background} and without linear SVMs. Received: {path}, "
                f"{', '.join(map(str, found[1:])) or type(segmenter).__name__}. Name "
                "fine_tuned.keras of a run with the same --design and --size."
            )
        return segmenter

    def trained(
        self,
        out: pathlib.Path,
        start: keras.Model,
        scenes: Scenes,
        read: Reader,
        svms: bool,
    ) -> Segmenter:
        """Return a segmenter that is fine-tuned, if that was not done before.

        Args:
            out: folder, in which fine_tuned.keras is saved after each epoch; those
                before an interruption are not done again.
            start: a network up to the layer whose map is masked, or the segmenter that
                another run has fine-tuned.
            scenes: to train on.
            read: the image of a number, and what its segments are trained as.
            svms: whether linear SVMs take the place of the softmax.
        """
        if isinstance(start, Segmenter):
            segmenter = start
        else:
            segmenter = self._fine_tuned(out / "fine_tuned.keras", start, scenes, read)
        if svms:
            self._set_svms(segmenter, len(scenes), read)
        return segmenter

    def _fine_tuned(self, file, network, scenes, read):
        """Return the segmenter after all epochs, saved after each."""
        steps = -(-len(scenes) // self.images)
        if file.exists():
            segmenter = keras.models.load_model(file)
        else:
            segmenter = self._new(network, scenes, steps)
        done = int(segmenter.optimizer.iterations)
        with tqdm.tqdm(
            total=steps * self.epochs, initial=done, desc="Fine-tuning", unit="batch"
        ) as bar:
            for epoch in range(done // steps, self.epochs):
                _seed_dropout(segmenter, self.seed, epoch)
                segmenter.fit(
                    self._batches(epoch, len(scenes), read),
                    shuffle=False,
                    verbose=0,
                    callbacks=[_moving(bar)],
                )
                storage.save_model(file, segmenter)
        return segmenter

    def _set_svms(self, segmenter, number, read):
        """Put linear SVMs in the place of the segmenter's softmax."""
        signature = examples.input_signature(self.size)
        embed = tf.function(segmenter.embed, signature, autograph=False)

        def vectors(i):
            image, assignment = read(i)
            inputs = examples.inputs_of(image, assignment.segments, self.size)
            return embed(inputs).numpy()[0]

        segmenter.set_machines(
            svm.fit(vectors, lambda i: read(i)[1], number, seed=self.seed)
        )

    def _new(self, network, scenes, steps):
        """Return a segmenter, compiled for epochs of so many steps."""
        keras.utils.set_random_seed(self.seed)
        segmenter = Segmenter(
            network,
            network.layers[-1].name,
            len(scenes.class_names),
            design=self.design,
            hidden=(self.hidden,),
            train_network=self.train_network,
            background=scenes.background,
        )
        segmenter.compile(
            keras.optimizers.Adam(
                keras.optimizers.schedules.CosineDecay(
                    self.learning_rate, steps * self.epochs
                )
            ),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            weighted_metrics=["accuracy"],
            jit_compile=False,
        )
        return segmenter

    def _batches(self, epoch, number, read):
        """Return the batches of an epoch."""
        return examples.training_batches(
            read,
            number,
            self.size,
            seed=self.seed,
            epoch=epoch,
            images=self.images,
            segments=self.segments,
            negative=(0.1, self.none_up_to),
        )


def _moving(bar):
    """Return a callback that moves the bar; loss and accuracy are an epoch's means."""

    def batch_end(batch, logs):
        shown = {name: f"{logs[name]:.3f}" for name in ("loss", "accuracy")}
        bar.set_postfix(shown, refresh=False)
        bar.update()

    return keras.callbacks.LambdaCallback(on_train_batch_end=batch_end)


def _seed_dropout(segmenter, seed, epoch):
    """Make what an epoch drops a function of seed and epoch: no file holds it."""
    states = [v for v in segmenter.variables if v.path.endswith("generator_state")]
    for number, state in enumerate(states):
        rng = np.random.default_rng([seed, epoch, number])
        state.assign(rng.integers(2**31, size=2))
