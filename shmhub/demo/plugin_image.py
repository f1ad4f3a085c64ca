"""The demo's image plugin: decodes PNG images to pixels and encodes pixels to small PNG images.

python -m shmhub.demo.plugin_image --hub-path=... --peer-id=... --doorbell-fd=...
"""

from shmhub.demo.jobs import Kind
from shmhub.demo.plugin import serve

if __name__ == "__main__":
    raise SystemExit(serve(Kind.IMAGE))
