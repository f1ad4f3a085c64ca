"""The demo's text plugin: deflates texts and names their SHA-256.

python -m shmhub.demo.plugin_text --hub-path=... --peer-id=... --doorbell-fd=...
"""

from shmhub.demo.jobs import Kind
from shmhub.demo.plugin import serve

if __name__ == "__main__":
    raise SystemExit(serve(Kind.TEXT))
