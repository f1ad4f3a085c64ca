"""The plugin: counts words, and asks its host for what it does not know and to show progress."""

from collections import Counter

import shmhub

plugin = shmhub.Plugin("counter")


@plugin.method
def count(names: list[str]) -> dict[str, int]:
    """How often each word occurs in the documents of these names, common words left out."""
    found: Counter[str] = Counter()
    for done, name in enumerate(names, start=1):
        found.update(plugin.host.read(name).lower().split())
        plugin.host.notify("progress", done, len(names))
    return {word: times for word, times in found.items() if not plugin.host.is_common(word)}


if __name__ == "__main__":
    plugin.run()
