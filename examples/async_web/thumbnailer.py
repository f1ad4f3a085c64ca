"""The plugin: any image becomes a small WebP."""

import io

from PIL import Image

import shmhub

plugin = shmhub.Plugin("thumbnailer")


@plugin.method(idempotent=True)
def thumbnail(image: memoryview, *, width: int = 256) -> bytes:
    """The image as WebP, at most `width` pixels wide and high."""
    with Image.open(io.BytesIO(image)) as picture:
        picture.thumbnail((width, width))
        made = io.BytesIO()
        picture.convert("RGB").save(made, "WEBP")
        return made.getvalue()


if __name__ == "__main__":
    plugin.run()
