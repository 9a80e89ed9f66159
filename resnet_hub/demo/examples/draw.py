"""Draw the example pictures beside this file, the cat excepted: `python draw.py`. The same pixels on every run."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

WIDTH, HEIGHT = 480, 420  # pixels; nearly square, so that a centre crop loses nothing of the subject
FINE = 3  # drawn so many times larger, for smooth edges

Colour = tuple[int, int, int]
Points = Sequence[tuple[float, float]]


class Scene:
    """A picture under construction; x and y are pixels of the result, y from -30 to 390."""

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

    def finish(self) -> Image.Image:
        """Shrunk, a little soft and grainy, as a camera would have it."""
        image = self.image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS).filter(ImageFilter.GaussianBlur(0.8))
        grain = np.random.default_rng(0).normal(0, 4, (HEIGHT, WIDTH, 1))
        return Image.fromarray((np.asarray(image) + grain).clip(0, 255).astype(np.uint8))


def ship() -> Image.Image:
    scene = Scene((150, 190, 225), (215, 228, 236))
    scene.band(225, (52, 98, 130), (24, 58, 84))
    scene.shape([(40, 195), (445, 185), (415, 255), (85, 258)], (38, 44, 58))
    scene.shape([(50, 226), (430, 222), (415, 255), (85, 258)], (150, 40, 38))
    scene.box(80, 140, 190, 196, (240, 240, 238))
    scene.box(95, 105, 175, 142, (246, 246, 244))
    for x in range(104, 168, 16):
        scene.box(x, 114, x + 10, 126, (60, 80, 100))
    scene.box(120, 70, 148, 106, (190, 60, 48))
    for column, colour in enumerate([(190, 80, 50), (60, 110, 150), (200, 160, 70), (90, 130, 90), (170, 70, 60)]):
        scene.box(206 + column * 42, 152, 244 + column * 42, 190, colour)
        scene.box(206 + column * 42, 118, 244 + column * 42, 150, colour[::-1])
    for number in range(60):
        x, y = (number * 83) % 480, 262 + (number * 47) % 92
        scene.box(x, y, x + 26, y + 1.6, (120, 160, 182))
    return scene.finish()


def airplane() -> Image.Image:
    scene = Scene((70, 130, 200), (170, 205, 235))
    scene.cloud(110, 290, 38)
    scene.cloud(390, 70, 30)
    white, shade, dark = (238, 240, 244), (176, 186, 200), (52, 70, 110)
    scene.shape([(232, 176), (150, 92), (176, 88), (300, 172)], shade)
    scene.shape([(70, 172), (40, 98), (72, 96), (126, 168)], dark)
    scene.shape([(56, 190), (90, 160), (380, 150), (440, 172), (446, 184), (400, 202), (120, 208)], white)
    scene.shape([(70, 198), (120, 208), (400, 202), (446, 184), (400, 212), (120, 216)], shade)
    scene.shape([(222, 200), (322, 196), (176, 300), (146, 302)], (206, 214, 224))
    scene.shape([(84, 190), (134, 192), (80, 226), (58, 226)], shade)
    scene.box(226, 228, 268, 246, (120, 130, 146), 8)
    for x in range(140, 372, 15):
        scene.disc(x, 178, 3.2, (70, 92, 124))
    scene.shape([(398, 160), (424, 168), (412, 174), (392, 172)], dark)
    return scene.finish()


def automobile() -> Image.Image:
    scene = Scene((176, 202, 226), (226, 232, 232))
    scene.band(150, (116, 140, 96), (96, 122, 80))
    scene.band(215, (120, 120, 122), (84, 84, 88))
    red, dark_red, glass = (196, 34, 36), (140, 20, 26), (60, 78, 96)
    scene.disc(240, 288, 190, (52, 52, 56), flat=0.09)
    scene.shape([(62, 262), (58, 214), (88, 196), (150, 186), (196, 138), (318, 136), (372, 186),
                 (420, 200), (430, 262)], red)  # fmt: skip
    scene.shape([(166, 188), (204, 148), (254, 146), (254, 188)], glass)
    scene.shape([(264, 188), (264, 146), (312, 146), (352, 188)], glass)
    scene.shape([(58, 236), (430, 236), (430, 266), (62, 266)], dark_red)
    scene.box(60, 206, 84, 222, (250, 236, 190), 6)
    scene.box(408, 206, 428, 220, (250, 120, 90), 4)
    scene.box(262, 202, 284, 207, dark_red, 2)
    for x in (136, 356):
        scene.disc(x, 264, 38, (26, 26, 30))
        scene.disc(x, 264, 20, (176, 180, 186))
        scene.disc(x, 264, 8, (90, 94, 100))
    return scene.finish()


def truck() -> Image.Image:
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


def bird() -> Image.Image:
    scene = Scene((150, 160, 120), (110, 128, 84))
    for number in range(70):  # leaves, out of focus
        shade = (number * 13) % 36 - 18
        x, y, radius = (number * 97) % 500 - 10, (number * 61) % 430 - 35, 14 + (number * 7) % 22
        scene.disc(x, y, radius, (130 + shade, 150 + shade, 110 + shade))
    scene.image = scene.image.filter(ImageFilter.GaussianBlur(5 * FINE))
    scene.shape([(0, 292), (480, 262), (480, 276), (0, 308)], (98, 74, 52))
    grey, light, dark = (70, 70, 78), (196, 190, 184), (40, 40, 48)
    scene.shape([(150, 230), (70, 290), (72, 306), (96, 306), (176, 258)], dark)
    scene.disc(226, 206, 88, grey, flat=0.78)
    scene.disc(250, 228, 66, light, flat=0.66)
    scene.shape([(150, 176), (236, 180), (250, 214), (136, 266), (106, 270)], dark)
    scene.disc(308, 140, 46, grey)
    scene.disc(322, 158, 26, light)
    scene.shape([(346, 130), (384, 144), (346, 154)], (60, 50, 44))
    scene.disc(322, 130, 7, (20, 18, 16))
    scene.disc(324, 128, 2, (250, 250, 250))
    for x in (216, 252):
        scene.shape([(x, 264), (x + 6, 264), (x + 8, 288), (x + 2, 288)], (120, 90, 60))
    return scene.finish()


DRAWINGS: dict[str, Callable[[], Image.Image]] = {
    "ship": ship, "airplane": airplane, "automobile": automobile, "truck": truck, "bird": bird,
}  # fmt: skip

if __name__ == "__main__":
    for name, draw in DRAWINGS.items():
        draw().save(Path(__file__).with_name(f"{name}.jpg"), quality=88, optimize=True)
