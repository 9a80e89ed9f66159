"""Draw the examples of the page that are no photos: `python scripts/draw_examples.py`.

The pixels are the same on every run.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

EXAMPLES = Path(__file__).parents[1] / "resnet_hub" / "demo" / "examples"
WIDTH, HEIGHT = 480, 420  # pixels; nearly square, so that a center crop loses nothing of the subject
FINE = 3  # scale at which the image is drawn before it is reduced, for smooth edges

Color = tuple[int, int, int]
Points = Sequence[tuple[float, float]]


class Scene:
    """An image under construction; x and y are pixels of the result, y from -30 to 390."""

    def __init__(self, top: Color, bottom: Color):
        fade = np.linspace(np.array(top), np.array(bottom), HEIGHT * FINE)[:, None].repeat(WIDTH * FINE, 1)
        self.image = Image.fromarray(fade.round().astype(np.uint8))

    def band(self, start: float, top: Color, bottom: Color) -> None:
        """Sea, road or grass: everything from `start` down."""
        first = round((start + 30) * FINE)
        rows = HEIGHT * FINE - first
        fade = np.linspace(np.array(top), np.array(bottom), rows)[:, None].repeat(WIDTH * FINE, 1)
        self.image.paste(Image.fromarray(fade.round().astype(np.uint8)), (0, first))

    def shape(self, points: Points, fill: Color) -> None:
        ImageDraw.Draw(self.image).polygon([(x * FINE, (y + 30) * FINE) for x, y in points], fill=fill)

    def box(self, left: float, top: float, right: float, bottom: float, fill: Color, radius: float = 0) -> None:
        corners = [edge * FINE for edge in (left, top + 30, right, bottom + 30)]
        ImageDraw.Draw(self.image).rounded_rectangle(corners, radius * FINE, fill=fill)

    def disc(self, x: float, y: float, radius: float, fill: Color, flat: float = 1.0) -> None:
        left, top, right, bottom = x - radius, y + 30 - radius * flat, x + radius, y + 30 + radius * flat
        ImageDraw.Draw(self.image).ellipse([edge * FINE for edge in (left, top, right, bottom)], fill=fill)

    def cloud(self, x: float, y: float, size: float) -> None:
        soft = Image.new("L", self.image.size)
        pen = ImageDraw.Draw(soft)
        for dx, dy, radius in [(-1.2, 0.2, 0.7), (-0.4, -0.2, 0.9), (0.5, -0.1, 0.8), (1.3, 0.25, 0.6)]:
            cx, cy, r = (x + dx * size) * FINE, (y + 30 + dy * size) * FINE, radius * size * FINE
            pen.ellipse((cx - r, cy - r * 0.6, cx + r, cy + r * 0.6), fill=170)
        self.image.paste(Image.new("RGB", self.image.size, "white"), mask=soft.filter(ImageFilter.GaussianBlur(size)))

    def soften(self, radius: float) -> None:
        """Blur what is drawn so far."""
        self.image = self.image.filter(ImageFilter.GaussianBlur(radius * FINE))

    def finish(self, blur: float = 0.8) -> Image.Image:
        """Reduce the image, and make it slightly soft and grainy, as a camera does."""
        image = self.image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS).filter(ImageFilter.GaussianBlur(blur))
        grain = np.random.default_rng(0).normal(0, 4, (HEIGHT, WIDTH, 1))
        return Image.fromarray((np.asarray(image) + grain).clip(0, 255).astype(np.uint8))


def goldfish() -> Image.Image:
    scene = Scene((52, 124, 134), (28, 96, 108))
    for number in range(5):  # weeds, out of focus
        x = 30 + number * 104
        scene.shape([(x, 390), (x + 16, 390), (x + 22 - number * 6, 250 - number % 3 * 30)], (40, 112, 84))
    scene.soften(6)
    body, fin = (240, 130, 30), (245, 150, 50)
    scene.shape([(328, 180), (440, 100), (425, 185), (445, 265)], fin)
    scene.shape([(190, 115), (280, 55), (300, 125)], fin)
    scene.shape([(220, 240), (262, 290), (282, 236)], fin)
    scene.disc(228, 180, 118, body, flat=0.64)
    scene.disc(206, 204, 82, (250, 172, 84), flat=0.42)
    scene.disc(156, 165, 10, (20, 20, 20))
    return scene.finish(2)


def school_bus() -> Image.Image:
    scene = Scene((150, 192, 232), (214, 228, 236))
    scene.band(270, (95, 95, 98), (74, 74, 78))
    yellow, black, glass = (240, 180, 20), (28, 28, 30), (45, 60, 75)
    scene.box(370, 170, 450, 280, (235, 172, 20), 10)
    scene.box(55, 80, 415, 280, yellow, 15)
    for x in range(75, 360, 48):
        scene.box(x, 110, x + 37, 165, glass, 4)
    scene.box(368, 108, 406, 168, glass, 4)
    scene.box(55, 190, 415, 196, black)
    scene.box(55, 230, 450, 235, black)
    scene.box(436, 220, 450, 236, (250, 236, 190), 4)
    for x in (125, 360):
        scene.disc(x, 280, 36, black)
        scene.disc(x, 280, 16, (150, 150, 150))
    return scene.finish(1)


DRAWINGS: dict[str, Callable[[], Image.Image]] = {"goldfish": goldfish, "school_bus": school_bus}

if __name__ == "__main__":
    for name, draw in DRAWINGS.items():
        draw().save(EXAMPLES / f"{name}.jpg", quality=88, optimize=True)
