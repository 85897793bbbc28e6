"""A loader over the synthetic stores."""

from synthetic import make_tokenizer

from gato.data_pipelines.loader import Loader
from gato.data_pipelines.mixture import SourceConfig
from gato.tokenizers.layout import Layout

LENGTH, ROWS = 128, 8


def configs(stores, **changes) -> list[SourceConfig]:
    windows = {"vectors": 1, "missions": 2}
    return [
        SourceConfig(path, window_timesteps=windows.get(name), expert_filter=None, held_out_episodes=3, **changes)
        for name, path in stores.items()
    ]


def open_loader(stores, layout: Layout | None = None, seed: int = 0, batch_size: int = ROWS, **options) -> Loader:
    return Loader(configs(stores), make_tokenizer(layout), batch_size, LENGTH, seed, **{"threads": 0, **options})
