"""Draw the example images of the page, except the espresso: `python scripts/draw_examples.py`.

The pixels are the same on every run.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

EXAMPLES = Path(__file__).parents[1] / "resnet_hub" / "demo" / "examples"
WIDTH, HEIGHT = 480, 420  # pixels; nearly square, so that a centre crop loses nothing of the subject
FINE = 3  # scale at which the image is drawn before it is reduced, for smooth edges

Colour = tuple[int, int, int]
Points = Sequence[tuple[float, float]]


class Scene:
    """An image under construction; x and y are pixels of the result, y from -30 to 390."""

    def __init__(self, top: Colour, bottom: Colour):
        fade = np.linspace(np.array(top), np.array(bottom), HEIGHT * FINE)[:, None].repeat(WIDTH * FINE, 1)
        self.image = Image.fromarray(fade.round().astype(np.uint8))

    def band(self, start: float, top: Colour, bottom: Colour) -> None:
        """Sea, road or grass: everything from `start` down."""
        first = round((start + 30) * FINE)
        rows = HEIGHT * FINE - first
        fade = np.linspace(np.array(top), np.array(bottom), rows)[:, None].repeat(WIDTH * FINE, 1)
        self.image.paste(Image.fromarray(fade.round().astype(np.uint8)), (0, first))

    def shape(self, points: Points, fill: Colour) -> None:
        ImageDraw.Draw(self.image).polygon([(x * FINE, (y + 30) * FINE) for x, y in points], fill=fill)

    def box(self, left: float, top: float, right: float, bottom: float, fill: Colour, radius: float = 0) -> None:
        corners = [edge * FINE for edge in (left, top + 30, right, bottom + 30)]
        ImageDraw.Draw(self.image).rounded_rectangle(corners, radius * FINE, fill=fill)

    def disc(self, x: float, y: float, radius: float, fill: Colour, flat: float = 1.0) -> None:
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


def lemon() -> Image.Image:
    scene = Scene((244, 244, 241), (238, 237, 232))
    scene.disc(250, 296, 150, (214, 210, 200), flat=0.1)
    scene.soften(8)
    scene.disc(368, 188, 32, (240, 205, 45), flat=0.85)
    scene.disc(96, 190, 20, (240, 205, 45), flat=0.8)
    scene.disc(225, 185, 136, (245, 215, 50), flat=0.7)
    scene.disc(186, 142, 54, (252, 235, 120), flat=0.55)
    return scene.finish(3)


def orange() -> Image.Image:
    scene = Scene((204, 174, 134), (196, 166, 126))
    scene.band(230, (150, 110, 75), (132, 96, 64))
    for x, y, radius in ((165, 220, 105), (320, 240, 95), (250, 135, 90)):
        scene.disc(x, y, radius, (226, 120, 22))
        scene.disc(x - radius * 0.22, y - radius * 0.35, radius * 0.32, (246, 160, 60))
    return scene.finish(3)


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


def moving_van() -> Image.Image:
    scene = Scene((168, 196, 226), (224, 230, 232))
    scene.band(200, (150, 146, 120), (126, 122, 104))
    scene.band(238, (112, 112, 116), (78, 78, 84))
    scene.disc(240, 304, 210, (48, 48, 52), flat=0.07)
    scene.box(40, 74, 316, 256, (236, 236, 232), 4)
    scene.box(40, 140, 316, 168, (36, 92, 160))
    scene.box(40, 252, 440, 276, (46, 48, 54))
    scene.shape([(326, 262), (326, 120), (396, 120), (432, 190), (444, 198), (444, 268), (326, 268)], (36, 92, 160))
    scene.shape([(346, 188), (346, 136), (388, 136), (414, 188)], (62, 80, 98))
    scene.box(428, 216, 444, 232, (250, 236, 190), 3)
    for x in (96, 160, 384):
        scene.disc(x, 276, 34, (24, 24, 28))
        scene.disc(x, 276, 16, (170, 174, 180))
    return scene.finish()


DRAWINGS: dict[str, Callable[[], Image.Image]] = {
    "goldfish": goldfish,
    "lemon": lemon,
    "moving-van": moving_van,
    "orange": orange,
    "school-bus": school_bus,
}

if __name__ == "__main__":
    for name, draw in DRAWINGS.items():
        draw().save(EXAMPLES / f"{name}.jpg", quality=88, optimize=True)
