"""A plugin that calls its host back, while the host waits for it: `python examples/callbacks`."""

from pathlib import Path

import shmhub

DOCUMENTS = {
    "pangram": "the quick brown fox jumps over the lazy dog",
    "reply": "the lazy dog looks at the quick fox",
}


def main() -> None:
    # One thread for callbacks: one after the other, so that what they print does not mix.
    with shmhub.PluginHost(callback_threads=1) as host:

        @host.callback
        def read(name: str) -> str:
            return DOCUMENTS[name]

        @host.callback
        def is_common(word: str) -> bool:
            return word in {"the", "at", "over"}

        @host.callback
        def progress(done: int, total: int) -> None:
            print(f"{done} of {total} documents")

        counter = host.spawn(Path(__file__).with_name("counter.py"))
        for word, times in sorted(counter.count(list(DOCUMENTS)).items()):
            print(f"{times} x {word}")


if __name__ == "__main__":
    main()
