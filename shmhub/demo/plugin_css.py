"""The demo's css plugin: minifies style sheets.

python -m shmhub.demo.plugin_css --hub-path=... --peer-id=... --doorbell-fd=...
"""

from shmhub.demo.jobs import Kind
from shmhub.demo.plugin import serve

if __name__ == "__main__":
    raise SystemExit(serve(Kind.CSS))
